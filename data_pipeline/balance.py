"""Class-balanced sampling, exact: images of rare classes have several places in an epoch, all told apart."""

import numpy as np

from data_pipeline.manifest import NO_LABEL, Manifest
from data_pipeline.order import Integers, subset_hash
from data_pipeline.randomness import Purpose, hash_array, key
from data_pipeline.subset import class_names, rank_in_class, read_labels


def balanced_samples(
    manifest: Manifest, split: str, members: Integers | None, power: float, seed: int
) -> tuple[Integers, str]:
    """Sorted sample numbers, each as often as it has places in an epoch, and the name of the rule for the plan.

    A class of n images has n^(1 - power) m^power places, rounded, where m is the number of images of the largest class.
    Power 1 shows all classes equally often; 0.5 is square-root sampling (Mahajan et al. 2018, arXiv:1805.00932). Every
    image has a place, and the images of a class differ by one place at most: hashes of (seed, sample) decide which
    have one more. Memory is O(places): at power 1 up to classes times m.

    Args:
        members: distinct samples that take part, None for all; those without a label are left out.
        power: more than 0, at most 1.

    Raises:
        ValueError: another power, or no labels.
    """
    if not 0 < power <= 1:
        raise ValueError(f"classes are balanced by a power of {power}; expected more than 0 and at most 1")
    classes = class_names(manifest)
    labels = read_labels(manifest, split)  # of withdrawn samples there is none
    own = np.flatnonzero(labels != NO_LABEL) if members is None else members[labels[members] != NO_LABEL]
    if not len(own):
        raise ValueError(f"{manifest.folder} [{split}]: no image that takes part has a label, so there are no classes")
    counts = np.bincount(labels[own], minlength=len(classes))
    places = [max(count, round(count ** (1 - power) * max(counts.tolist()) ** power)) for count in counts.tolist()]
    copies, more = np.divmod(np.asarray(places, np.int64), np.maximum(counts, 1))
    luck = hash_array(key(seed, Purpose.BALANCE), own.astype(np.uint64))
    of_class = labels[own]
    times = copies[of_class] + (rank_in_class(of_class, luck) < more[of_class])
    chosen = np.repeat(own, times)
    return chosen, f"balanced-{float(power)!r}-{subset_hash(chosen)}"
