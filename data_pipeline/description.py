"""What is said of a dataset once its shards are written: the manifest's statistics, timm's file, the quarantine."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.manifest import Manifest, Shard, Split, Statistics
from data_pipeline.shard_content import SplitFormat
from data_pipeline.shard_writer import ShardRecord, read_record, record_file
from launch.atomic import explain_full_disk, sync_folder

QUARANTINE = "quarantine.jsonl"
TIMM_INFO = "_info.json"

_FULL_SCALE = {"uint8": 255, "uint16": 65_535, "float32": 1}


def describe_split(records: Sequence[ShardRecord], layout: SplitFormat, classes: int) -> Split:
    """A split from the records of its shards, in order; those without a sample are left out."""
    labels: Counter[int] = Counter()
    for record in records:
        labels.update({int(label): count for label, count in record.labels.items()})
    shards: tuple[Shard, ...] = tuple(record.shard for record in records if record.shard.samples)
    counts = tuple(labels[label] for label in range(classes)) if labels else ()
    return Split(layout.extension, shards, layout.channels, layout.dtype, counts)


def statistics_of(records: Sequence[ShardRecord], dtype: str) -> Statistics:
    """Mean and deviation of each channel, of a full scale of 1, and sizes, over the records of a split's shards."""
    filled = [record for record in records if record.shard.samples]
    pixels = sum(record.sums.pixels for record in filled)
    values = [sum(column) for column in zip(*(record.sums.values for record in filled), strict=True)]
    squares = [sum(column) for column in zip(*(record.sums.squares for record in filled), strict=True)]
    scale = _FULL_SCALE[dtype]
    mean = tuple(total / pixels / scale for total in values)
    # Integers to the last division: exact where the sums are.
    variance = [
        (square * pixels - total * total) / (pixels * pixels) for total, square in zip(values, squares, strict=True)
    ]
    std = tuple(math.sqrt(max(0.0, value)) / scale for value in variance)
    smallest = min(r.smallest[0] for r in filled), min(r.smallest[1] for r in filled)
    largest = max(r.largest[0] for r in filled), max(r.largest[1] for r in filled)
    return Statistics(mean, std, smallest, largest)


def timm_info(manifest: Manifest) -> dict[str, Any]:
    """What timm's reader of WebDatasets wants to find in `_info.json`."""
    splits = {
        name: {
            "name": name,
            "num_samples": split.samples,
            "filenames": [shard.file for shard in split.shards],
            "shard_lengths": [shard.samples for shard in split.shards],
        }
        for name, split in manifest.splits.items()
    }
    return {"name": "sherd", "splits": splits}


def broken_samples(folder: Path, records: Iterable[ShardRecord]) -> Iterator[tuple[str, str, str]]:
    """Split, name and reason of every sample that was left out of a shard, in the order of the shards."""
    for record in records:
        if record.broken:
            whole = read_record(record_file(folder, record.shard.index))
            assert whole is not None
            yield from ((record.split, name, reason) for name, reason in whole.quarantined)


def write_quarantine(folder: Path, dropped: Path | None, records: Iterable[ShardRecord]) -> int:
    """Write `quarantine.jsonl`: what the selection left out, in the file `dropped`, then what turned out to be broken.

    Returns how many lines it has; without any no file is written.
    """
    target = folder / QUARANTINE
    temporary = folder / f".partial-{QUARANTINE}"
    lines = 0
    with explain_full_disk(target, 0 if dropped is None else dropped.stat().st_size):
        with temporary.open("wb") as file:
            if dropped is not None:
                with dropped.open("rb") as source:
                    lines = sum(1 for _ in source)
                    source.seek(0)
                    shutil.copyfileobj(source, file)
            for split, name, reason in broken_samples(folder, records):
                file.write(f"{json.dumps({'split': split, 'name': name, 'reason': reason})}\n".encode())
                lines += 1
        if lines:
            temporary.replace(target)
        else:
            temporary.unlink()
        sync_folder(folder)
    return lines
