"""Every byte of a dataset against what its manifest and its indexes promise, shards side by side."""

import time
from collections.abc import Iterator
from typing import NamedTuple

from data_pipeline.manifest import Manifest
from data_pipeline.shard_check import CheckShard, Verdict
from data_pipeline.task_pool import TaskPool
from launch.console import Console, format_rate


class Verified(NamedTuple):
    """What was read: `bad` are (split, number of the shard) of those that differ, in order."""

    shards: int
    samples: int
    bytes: int
    seconds: float
    bad: tuple[tuple[str, int], ...]


def verify_dataset(manifest: Manifest, split: str | None, processes: int, console: Console) -> Verified:
    """Read all shards of one split or of all; says of each bad one, as it is found, what differs and what repairs it.

    Raises:
        ValueError: no such split.
        WorkerDiedError: a worker process was killed.
    """
    names = list(manifest.splits) if split is None else [split]
    samples = sum(manifest.split(name).samples for name in names)
    verdicts: dict[tuple[str, int], Verdict] = {}
    bad: set[tuple[str, int]] = set()
    began = time.monotonic()
    with TaskPool(processes) as pool, console.progress(samples, unit="samples", label="verified") as progress:
        for verdict in pool.run(_tasks(manifest, names), progress.advance):
            verdicts[verdict.split, verdict.number] = verdict
            if verdict.faults:
                bad.add((verdict.split, verdict.number))
                _say(manifest, verdict.split, verdict.number, "; ".join(verdict.faults), console)
    for name in names:
        for number, fault in _out_of_order(manifest, name, verdicts):
            bad.add((name, number))
            _say(manifest, name, number, fault, console)
    size = sum(verdict.bytes for verdict in verdicts.values())
    order = [key for key in verdicts if key in bad]
    order.sort(key=lambda key: (names.index(key[0]), key[1]))
    return Verified(len(verdicts), samples, size, time.monotonic() - began, tuple(order))


def summary(verified: Verified) -> str:
    """One line: how much was read, and how much of it is bad."""
    rate = format_rate(verified.bytes / 1e6 / max(verified.seconds, 1e-9))
    read = (
        f"{verified.shards:,} shards, {verified.samples:,} samples, {verified.bytes:,} bytes "
        f"in {verified.seconds:.1f} s ({rate} MB/s)"
    )
    return f"{read}: {len(verified.bad):,} of the shards are bad" if verified.bad else f"{read}: all whole"


def _tasks(manifest: Manifest, names: list[str]) -> Iterator[CheckShard]:
    for name in names:
        split = manifest.split(name)
        for number, shard in enumerate(split.shards):
            yield CheckShard(manifest.folder, manifest.tars, name, split.extension, number, shard)


def _out_of_order(manifest: Manifest, name: str, verdicts: dict[tuple[str, int], Verdict]) -> Iterator[tuple[int, str]]:
    """Shards of ours whose keys do not follow those of the shard before."""
    last = -1
    for number, shard in enumerate(manifest.split(name).shards):
        places = verdicts[name, number].places
        if places is None:
            continue
        if places[0] <= last:
            yield (
                number,
                f"index {shard.index}: keys begin at {places[0]}, expected above {last}, where those before end",
            )
        last = max(last, places[1])


def _say(manifest: Manifest, split: str, number: int, fault: str, console: Console) -> None:
    shard = manifest.split(split).shards[number]
    console.say(f"{fault}; {manifest.repair(shard.file)}")
