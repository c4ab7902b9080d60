"""How many bytes an epoch takes from a disk, and from a server, when several ranks share it."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from counting_server import CountingServer, Sent
from stream_processes import Result, run, run_together

from data_pipeline.blocks import bounds_of
from data_pipeline.manifest import Manifest, locate_sample, open_index, sample_starts
from data_pipeline.order import Plan

Jobs = Sequence[dict[str, Any]]
_RANK = "stream_rank.py"


def from_disk(manifest: Manifest, jobs: Jobs, *, together: bool) -> Result:
    """Bytes that the ranks' processes had the kernel read, none of the dataset being in its cache before.

    `together`: at the same time on one machine; otherwise one after another, each as on a machine of its own.
    """
    if together:
        forget_pages(manifest)
        results = run_together(_RANK, jobs)
    else:
        results = []
        for job in jobs:
            forget_pages(manifest)
            results.append(run(_RANK, job))
    _check_images(results, manifest)
    return {
        "bytes": sum(result["bytes_read"] for result in results),
        "start": sum(result["bytes_to_first_batch"] for result in results),
    }


def from_server(manifest: Manifest, jobs: Jobs, work: Path, *, shared: bool) -> Result:
    """Bytes that a server sends, by what they are; `shared`: one cache for all ranks, otherwise each has its own."""
    assert isinstance(manifest.folder, Path)
    with CountingServer(manifest.folder) as server, _cache(work, shared) as environment:
        results = run_together(_RANK, [{**job, "data": server.url} for job in jobs], environment)
        sent = list(server.sent)
    _check_images(results, manifest)
    return by_kind(manifest, sent)


def by_kind(manifest: Manifest, sent: Sequence[Sent]) -> Result:
    """Bytes sent: of blocks, of blocks once more, of samples singly (those of the start), of what is not in tars."""
    spans = block_spans(manifest)
    counts = {"blocks": 0, "blocks again": 0, "start": 0, "indexes and manifest": 0}
    seen: set[Sent] = set()
    for one in sent:
        if not one.file.endswith(".tar"):
            kind = "indexes and manifest"
        elif one not in spans:
            kind = "start"
        else:
            kind = "blocks again" if one in seen else "blocks"
            seen.add(one)
        counts[kind] += one.stop - one.start
    return {"bytes": sum(counts.values()), **counts, "requests": len(sent)}


def block_spans(manifest: Manifest) -> set[Sent]:
    """What a request for each of the blocks asks for."""
    split = manifest.split("train")
    bounds = bounds_of(split, Plan())
    shards, first = locate_sample(sample_starts(split), bounds[:-1])
    spans = set()
    for number, row, count in zip(shards.tolist(), first.tolist(), np.diff(bounds).tolist(), strict=True):
        shard = split.shards[number]
        rows = open_index(manifest, shard)[row : row + count]
        spans.add(Sent(shard.file, int(rows["offset"][0]), int(rows["offset"][-1] + rows["length"][-1])))
    return spans


def files_of(manifest: Manifest) -> list[Path]:
    """Tars and indexes: what an epoch has to read."""
    folder = manifest.folder
    assert isinstance(folder, Path)
    return [folder / name for shard in manifest.split("train").shards for name in (shard.file, shard.index)]


def forget_pages(manifest: Manifest) -> None:
    """Have the kernel drop what it holds of the dataset's files."""
    for path in files_of(manifest):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@contextmanager
def _cache(work: Path, shared: bool) -> Iterator[dict[str, str]]:
    """Environment variables for processes that share an empty cache, or none."""
    if not shared:
        yield {}
        return
    with tempfile.TemporaryDirectory(dir=work) as folder:
        yield {"SHERD_CACHE": folder}


def _check_images(results: Sequence[Result], manifest: Manifest) -> None:
    """An epoch is every sample once, and what else fills its last batch."""
    seen, batch = sum(result["images"] for result in results), results[0]["job"]["batch_size"]
    assert 0 <= seen - manifest.split("train").samples < batch, f"the ranks saw {seen} images"
