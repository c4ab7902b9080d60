"""What is known of samples by their numbers, without reading them: where they lie, their keys, names and labels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline.manifest import NO_LABEL, Manifest, key_prefix, locate_sample, open_index, sample_starts
from data_pipeline.order import Integers
from data_pipeline.withdrawn import read_names


class SampleFacts(NamedTuple):
    """`row`: its number in the shard. `name`: in the source, None for tars of others. `label`: None without one."""

    sample: int
    shard: str
    row: int
    key: str
    name: str | None
    label: int | None
    class_name: str | None


def look_up(manifest: Manifest, split: str, samples: Sequence[int] | Integers) -> list[SampleFacts]:
    """The facts of each sample, in the order asked for; each shard concerned is opened once.

    Raises:
        DatasetError: an index or list of names is absent or altered.
    """
    described = manifest.split(split)
    numbers = np.asarray(samples, np.int64)
    shards, rows = locate_sample(sample_starts(described), numbers)
    facts: dict[int, SampleFacts] = {}
    for number in np.unique(shards).tolist():
        shard = described.shards[number]
        index, names = open_index(manifest, shard), read_names(manifest, shard)
        for place in np.flatnonzero(shards == number).tolist():
            row = int(rows[place])
            is_ours = shard.first >= 0
            label = int(index["label"][row])
            classes = manifest.classes
            facts[place] = SampleFacts(
                sample=int(numbers[place]),
                shard=shard.file,
                row=row,
                key=f"{key_prefix(split)}-{int(index['place'][row]):09d}" if is_ours else names[row],
                name=names[row] if is_ours else None,
                label=None if label == NO_LABEL else label,
                class_name=classes[label] if classes is not None and 0 <= label < len(classes) else None,
            )
    return [facts[place] for place in range(len(numbers))]
