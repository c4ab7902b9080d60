"""Who waits for whom: the store for nobody, the loader for the store, or the training step for the loader."""

import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil, gcd
from pathlib import Path

import numpy as np

from data_pipeline.blocks import Blocks, bounds_of
from data_pipeline.manifest import Manifest, Split
from data_pipeline.order import Plan
from data_pipeline.rows import FillReport, Part
from data_pipeline.storage import ShardReader
from data_pipeline.stream import Stream
from launch.console import format_rate
from pretrain.findings import Finding, counted, told_bytes

_THREADS = 8  # as many as fetch blocks ahead of a rank
_READ_SECONDS, _READ_BYTES = 2.0, 512_000_000
_LOAD_SECONDS, _WARM_SECONDS, _WARM_BATCHES = 2.5, 8.0, 6
_WAITS = 0.05  # of the time
_MOST_HELD = 0.5  # of the free memory that files of a dataset may take to stay there


@dataclass(frozen=True)
class Read:
    """What reading blocks of a dataset came to: bytes of samples, as they lie in the tars, the number of their images,
    and seconds; by `_THREADS` threads.

    total: bytes of the whole split. is_remote: they come from a store.
    """

    bytes: int
    images: int
    seconds: float
    total: int
    is_remote: bool

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.bytes / self.seconds


@dataclass(frozen=True)
class Loaded:
    """What a stream alone gives one process: images a second, with so many workers, and the stage that takes most."""

    rate: float
    workers: int
    slowest: str


def measure_reading(part: Part, plan: Plan, most_seconds: float = _READ_SECONDS) -> Read:
    """Read and verify blocks from all over the split, as a run does, past what the system holds of files in memory.

    Raises:
        DatasetError, OSError: bytes that are absent or altered, or a store that does not answer.
    """
    manifest, split = part.manifest, part.manifest.split(part.split)
    bounds = bounds_of(split, plan)
    blocks, count = Blocks(split, bounds), len(bounds) - 1
    # A step that shares no divisor with their number goes through all, far apart from each other.
    stride = next(step for step in itertools.count(max(1, int(count * 0.618))) if gcd(step, count) == 1)
    turns, lock, begin = itertools.count(), threading.Lock(), time.perf_counter()
    size = images = 0

    def work(_: int) -> None:
        nonlocal size, images
        reader = ShardReader(manifest, split, bounds)
        while time.perf_counter() - begin < most_seconds and size < _READ_BYTES:
            turn = next(turns)
            if turn >= count:
                return
            shard, start, stop = blocks.rows(turn * stride % count)
            entries = reader.index(shard)[start:stop]
            length = int(entries["length"].sum())
            _forget(manifest, split, shard, int(entries["offset"][0]), length)
            reader.images(shard, np.arange(start, stop))
            with lock:
                size += length
                images += stop - start

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(work, range(_THREADS)))
    seconds = time.perf_counter() - begin
    return Read(size, images, seconds, split.bytes, is_remote=not isinstance(manifest.tars, Path))


def measure_loading(stream: Stream, workers: int, seconds: float = _LOAD_SECONDS) -> Loaded:
    """Take batches of a stream without an end for so long, once its workers are there. Ends them.

    Raises:
        DatasetError, OSError, WorkerDiedError: as any stream.
    """
    batches, begin = iter(stream), time.perf_counter()
    for number in range(_WARM_BATCHES):
        next(batches)
        if number > 0 and time.perf_counter() - begin > _WARM_SECONDS:
            break
    stream.report, rows, begin = FillReport(), 0, time.perf_counter()
    while rows == 0 or time.perf_counter() - begin < seconds:
        rows += len(next(batches).labels)
    rate = rows / (time.perf_counter() - begin)
    stages = stream.stages().workers
    slowest = max(stages, key=lambda stage: stages[stage])
    stream.close()
    return Loaded(rate, workers, slowest)


def judge_reading(
    found: Read, step_rate: float, gpus: int, *, read_factor: int, memory: int | None, measured_on: str
) -> Finding:
    """Whether one process of a host reads as fast as all its GPUs train, at `step_rate` images a second each.

    memory: bytes that are free there, None where that is not known: files that fit it are read in the first epoch only.
    """
    each = found.bytes / found.images
    needed = each * step_rate * gpus * read_factor
    where = "the store" if found.is_remote else "files"
    what, measured = "reading", f"{told_bytes(found.rate)}/s of {where}, {told_bytes(each)} an image"
    wanted = f"{told_bytes(needed)}/s a node: {gpus} x {format_rate(step_rate)} images/s {measured_on}"
    if found.rate >= needed:
        return Finding("ok", what, measured, wanted)
    if not found.is_remote and memory is not None and found.total < memory * _MOST_HELD:
        return Finding("ok", what, f"{measured}; all {told_bytes(found.total)} stay in memory after one epoch", wanted)
    fix = "a faster disk, or shards written again with a smaller --short-side"
    if found.is_remote:
        fix = "SHERD_CACHE on a local disk (from the second epoch on), a nearer store, or a copy on a local disk"
    return Finding("warning", what, measured, wanted, fix)


def judge_loading(found: Loaded, step_rate: float, gpus: int, cores: int, *, measured_on: str) -> Finding:
    """Who waits: one process's loader gives `found`, its step takes `step_rate` images a second."""
    what = "loader"
    by = counted(found.workers, "worker") if found.workers else "itself"
    measured = f"{format_rate(found.rate)} images/s in each process by {by}, most of it {found.slowest}"
    needed = f"{format_rate(step_rate)} images/s, as a step takes {measured_on}"
    waits = 1 - found.rate / step_rate
    if waits < _WAITS:
        return Finding("ok", what, f"{measured}: the step binds", needed)
    per_worker = found.rate / max(1, found.workers)
    wanted = ceil(step_rate / per_worker)
    fixes = [f"--workers {wanted}"] if (wanted + 1) * gpus <= cores else []
    fixes += ["a node with more cores a GPU", "shards with a smaller --short-side", "--cache memory where images fit"]
    return Finding("warning", what, f"{measured}: training waits {waits:.0%} of the time", needed, ", ".join(fixes))


def _forget(manifest: Manifest, split: Split, shard: int, start: int, length: int) -> None:
    """Have the system drop a part of a local shard from its memory: most of what a run reads is not there."""
    if not isinstance(manifest.tars, Path) or not hasattr(os, "posix_fadvise"):
        return
    with open(manifest.tars / split.shards[shard].file, "rb") as file:
        os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_DONTNEED)
