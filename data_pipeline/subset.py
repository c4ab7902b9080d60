"""Which samples of a split take part: those with a label, so many of each class, all but a share that is held out."""

import numpy as np
from numpy.typing import NDArray

from data_pipeline.manifest import NO_LABEL, Manifest, open_index
from data_pipeline.order import Integers, subset_hash
from data_pipeline.randomness import Purpose, hash_array, key


def class_names(manifest: Manifest) -> tuple[str, ...]:
    """The names of a dataset's classes. Raises ValueError where it has no labels."""
    if manifest.classes is None:
        raise ValueError(
            f"{manifest.folder}: this dataset has no labels; shard images in class folders or a table with a label "
            "column (--label-column), and without --labels none"
        )
    return manifest.classes


def read_labels(manifest: Manifest, split: str) -> NDArray[np.int64]:
    """The label of every sample of a split, in order, -1 where there is none and where the sample is withdrawn.

    Raises:
        DatasetError: an index is absent or altered.
    """
    described = manifest.split(split)
    labels = np.concatenate(
        [np.asarray(open_index(manifest, shard)["label"]) for shard in described.shards], dtype=np.int64
    )
    labels[list(described.withdrawn)] = NO_LABEL
    return labels


def labelled_samples(manifest: Manifest, split: str, per_class: int | None, seed: int) -> tuple[Integers | None, str]:
    """Sorted sample numbers to train a classifier on, None for the whole split, and the name of the rule for the plan.

    `per_class` images of each class, chosen by hash of (seed, sample); None: every image that has a label. The images
    of a smaller number are among those of a larger one.

    Raises:
        ValueError: no labels at all, or fewer than `per_class` in a class.
    """
    classes = class_names(manifest)
    labels = read_labels(manifest, split)
    if per_class is None:
        members = np.flatnonzero(labels != NO_LABEL)
        return (None, "") if len(members) == len(labels) else (members, f"labelled-{subset_hash(members)}")
    counts = np.bincount(labels[labels != NO_LABEL], minlength=len(classes))
    if counts.min() < per_class:
        fewest = int(counts.argmin())
        raise ValueError(
            f"--labels {per_class} is above what a class has: {classes[fewest]!r} has {counts[fewest]} images "
            f"in {manifest.folder} [{split}]; give at most {counts[fewest]}"
        )
    luck = hash_array(key(seed, Purpose.SUBSET), np.arange(len(labels), dtype=np.uint64))
    by_luck = np.argsort(luck, kind="stable")
    chosen = [by_luck[labels[by_luck] == label][:per_class] for label in range(len(classes))]
    members = np.sort(np.concatenate(chosen))
    return members, f"{per_class}-a-class-{subset_hash(members)}"


def hold_out(
    manifest: Manifest, split: str, members: Integers | None, share: float, seed: int
) -> tuple[Integers, Integers, str]:
    """Samples to train on and samples held out, both sorted, and the name of the rule for the plan of the former.

    `share` of the images of each class, rounded, are held out: those whose hashes of (seed, sample) are the lowest.
    Images without a label are taken as one class more.

    Args:
        members: distinct samples that are shared out, None for all.
        share: of the images, more than 0 and less than 1.

    Raises:
        ValueError: another share, or one that takes all images of a class, or none of any.
    """
    if not 0 < share < 1:
        raise ValueError(f"a share of {share} is to be held out; expected more than 0 and less than 1, such as 0.1")
    where = f"holding out {share:g} of {manifest.folder} [{split}]"
    described = manifest.split(split)
    own = described.members() if members is None else np.setdiff1d(members, described.withdrawn)
    labels = read_labels(manifest, split)[own]
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    held_out = np.floor(counts * share + 0.5).astype(np.int64)
    if (held_out == counts).any():
        emptied = int(np.argmax(held_out == counts))
        label = int(labels[classes == emptied][0])
        of = "without a label" if label == NO_LABEL or manifest.classes is None else f"of {manifest.classes[label]!r}"
        raise ValueError(f"{where} would take all {counts[emptied]} images {of}; hold out a smaller share")
    if not held_out.any():
        raise ValueError(
            f"{where} would take no image at all: the largest class has {counts.max()}; hold out at least "
            f"{0.5 / counts.max():.2g}"
        )
    luck = hash_array(key(seed, Purpose.HOLD_OUT), own.astype(np.uint64))
    is_held_out = rank_in_class(classes, luck) < held_out[classes]
    training = own[~is_held_out]
    return training, own[is_held_out], f"hold-out-{share!r}-{subset_hash(training)}"


def rank_in_class(classes: Integers, luck: NDArray[np.uint64]) -> Integers:
    """Of each image its place, from 0, among those of its class by `luck`; both of shape (n,)."""
    order = np.lexsort((luck, classes))
    by_class = classes[order]
    ranks = np.empty(len(classes), np.int64)
    ranks[order] = np.arange(len(classes)) - np.searchsorted(by_class, by_class)
    return ranks
