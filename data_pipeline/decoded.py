"""Images of small datasets decoded once, in memory that a rank's processes share."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.arrays import DecodeError, Pixels
from data_pipeline.decode import decode, upright
from data_pipeline.free_memory import free_memory
from data_pipeline.manifest import Manifest, Split, locate_sample, sample_starts
from data_pipeline.order import Integers
from data_pipeline.storage import ShardReader

HELD = np.dtype([("offset", "<i8"), ("height", "<i8"), ("width", "<i8"), ("label", "<i8")])
_NOT_HELD = -1
_TASK = 256  # samples
_MOST_SHARE = 0.6  # of the memory that is free


@dataclass(frozen=True)
class Decoded:
    """Upright pixels of samples, one after another. Pickled only as an argument of a process.

    memory: bytes of all pixels. tables: for each part one row of `HELD` a sample of the split, the offset being -1 for
    samples that take no part or do not decode. channels, dtype: of the pixels.
    """

    memory: Any
    tables: tuple[Any, ...]
    channels: int
    dtype: str

    def __post_init__(self) -> None:
        values = np.frombuffer(self.memory, np.dtype(self.dtype))
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_rows", [np.frombuffer(table, HELD) for table in self.tables])

    def __reduce__(self) -> tuple[type["Decoded"], tuple[Any, ...]]:
        return Decoded, (self.memory, self.tables, self.channels, self.dtype)

    def image(self, dataset: int, sample: int) -> tuple[Pixels, int] | None:
        """Pixels (height, width, channels) and label of a sample; None where it is not held."""
        offset, height, width, label = self.table(dataset)[sample].item()
        if offset == _NOT_HELD:
            return None
        values: Pixels = self._values[offset : offset + height * width * self.channels]  # type: ignore[attr-defined]
        return values.reshape(height, width, self.channels), label

    def table(self, dataset: int) -> np.ndarray:
        """The rows of `HELD` of one part."""
        return self._rows[dataset]  # type: ignore[attr-defined]


def decode_all(
    parts: Sequence[tuple[Manifest, str]],
    members: Sequence[Integers | None],
    readers: Callable[[], Sequence[ShardReader]],
    *,
    threads: int,
    say: Callable[[str], None],
) -> Decoded:
    """Read and decode what takes part: `parts` as manifests and names of their splits.

    Args:
        members: for each part the sorted numbers of its samples that take part, None for all.
        readers: makes the readers of all parts, for one thread.
        threads: that decode at a time.
        say: is told what is done, and how much memory it takes.

    Raises:
        ValueError: it does not fit the memory.
        DatasetError, OSError: bytes that are absent or altered, or a store that does not answer.
    """
    begin = time.perf_counter()
    splits = [manifest.split(name) for manifest, name in parts]
    chosen = [
        split.members() if one is None else np.setdiff1d(one, split.withdrawn)
        for split, one in zip(splits, members, strict=True)
    ]
    decoded = _make_room(splits, chosen, readers())
    count = sum(map(len, chosen))
    say(f"decoding {count:,} images once, into {len(decoded.memory) / 1e6:,.1f} MB of memory")
    tasks = [
        (dataset, samples[start : start + _TASK])
        for dataset, samples in enumerate(chosen)
        for start in range(0, len(samples), _TASK)
    ]
    starts = [sample_starts(split) for split in splits]
    is_over = threading.Event()

    def work(number: int) -> None:
        mine = readers()
        for dataset, samples in tasks[number::threads]:
            if is_over.is_set():
                return
            shards, rows = locate_sample(starts[dataset], samples)
            for sample, shard, row in zip(samples.tolist(), shards.tolist(), rows.tolist(), strict=True):
                _fill(decoded, dataset, sample, *mine[dataset].image(shard, row))

    with ThreadPoolExecutor(threads) as pool:
        try:
            for _ in pool.map(work, range(threads)):
                pass
        finally:
            is_over.set()
    say(f"decoded in {time.perf_counter() - begin:.1f} s")
    return decoded


def _make_room(splits: Sequence[Split], chosen: Sequence[Integers], readers: Sequence[ShardReader]) -> Decoded:
    """Memory for all pixels, and where each image's lie."""
    context = multiprocessing.get_context("forkserver")
    channels, dtype = splits[0].channels, splits[0].dtype
    tables, end = [], 0
    for split, samples, reader in zip(splits, chosen, readers, strict=True):
        table = context.RawArray("B", max(1, split.samples) * HELD.itemsize)
        rows = np.frombuffer(table, HELD)
        indexes = [reader.index(shard) for shard in range(len(split.shards))]
        for name in ("height", "width", "label"):
            rows[name] = np.concatenate([index[name] for index in indexes])
        values = rows["height"][samples] * rows["width"][samples] * channels
        rows["offset"] = _NOT_HELD
        rows["offset"][samples] = end + np.cumsum(values) - values
        end += int(values.sum())
        tables.append(table)
    needed = end * np.dtype(dtype).itemsize
    _check_memory(needed, sum(map(len, chosen)))
    return Decoded(context.RawArray("B", max(1, needed)), tuple(tables), channels, dtype)


def _check_memory(needed: int, images: int) -> None:
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # each of these processes holds its own
    free = free_memory()
    if free is not None and needed * beside > free * _MOST_SHARE:
        times = f" in each of {beside} processes" if beside > 1 else ""
        raise ValueError(
            f"--cache: {images:,} decoded images take {needed / 1e9:.1f} GB{times}, and {free / 1e9:.1f} GB of memory "
            "are free here, of which a loader should leave a good part; use --cache none, or write the dataset with "
            "smaller images"
        )


def _fill(decoded: Decoded, dataset: int, sample: int, data: memoryview, entry: np.void) -> None:
    """Decode one image into its place; one that does not decode is not held, so that who needs it meets that again."""
    held = decoded.image(dataset, sample)
    assert held is not None
    try:
        pixels = upright(decode(data), int(entry["orientation"]))
        if pixels.shape == held[0].shape and pixels.dtype == held[0].dtype:
            held[0][...] = pixels
            return
    except DecodeError:
        pass
    decoded.table(dataset)["offset"][sample] = _NOT_HELD
