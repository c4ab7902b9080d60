"""Which samples of a split take part: those with a label, or so many of each class."""

import numpy as np
from numpy.typing import NDArray

from data_pipeline.manifest import NO_LABEL, Manifest, open_index
from data_pipeline.order import Integers, subset_hash
from data_pipeline.randomness import Purpose, hash_array, key


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
    if manifest.classes is None:
        raise ValueError(
            f"{manifest.folder}: this dataset has no labels; shard images in class folders or a table with a label "
            "column (--label-column), and without --labels none"
        )
    labels = read_labels(manifest, split)
    if per_class is None:
        members = np.flatnonzero(labels != NO_LABEL)
        return (None, "") if len(members) == len(labels) else (members, f"labelled-{subset_hash(members)}")
    counts = np.bincount(labels[labels != NO_LABEL], minlength=len(manifest.classes))
    if counts.min() < per_class:
        fewest = int(counts.argmin())
        raise ValueError(
            f"--labels {per_class} is above what a class has: {manifest.classes[fewest]!r} has {counts[fewest]} images "
            f"in {manifest.folder} [{split}]; give at most {counts[fewest]}"
        )
    luck = hash_array(key(seed, Purpose.SUBSET), np.arange(len(labels), dtype=np.uint64))
    by_luck = np.argsort(luck, kind="stable")
    chosen = [by_luck[labels[by_luck] == label][:per_class] for label in range(len(manifest.classes))]
    members = np.sort(np.concatenate(chosen))
    return members, f"{per_class}-a-class-{subset_hash(members)}"
