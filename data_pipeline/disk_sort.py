"""Sorting more records than fit in memory: spread over files by value, then each file sorted on its own."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from launch.atomic import PARTIAL, explain_full_disk

_BUCKET_BITS = 8  # 256 files a level: 64 MB of memory sort 4 GB with one level, a terabyte with two


def sort_on_disk(
    batches: Iterable[np.ndarray], folder: Path, fields: Sequence[str], most_bytes: int = 64_000_000
) -> Iterator[np.ndarray]:
    """Structured arrays of whole numbers, sorted by `fields`, then by their other fields in the order of the dtype.

    So the outcome depends on nothing but the records, not on the order in which they come. The first of `fields` is
    best a hash, spread evenly over 64 bits; where it is not, more levels of files are written. Memory stays below about
    `most_bytes`; temporary files in `folder` take as much as the records do, and are gone at the end.

    Raises:
        OSError: a full disk, or a folder that cannot be written.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        return
    with tempfile.TemporaryDirectory(prefix=f"{PARTIAL}sort-", dir=folder) as temporary:
        job = _Job(first.dtype, _all_fields(first.dtype, fields), most_bytes // 4)
        yield from job.sort(chain([first], batches), Path(temporary), 0, 0, 1 << 64)


@dataclass(frozen=True)
class _Job:
    """What to sort by, and how many bytes of records to hold: sorting them takes about three times as much."""

    dtype: np.dtype
    names: tuple[str, ...]
    most_bytes: int

    def sort(
        self, batches: Iterable[np.ndarray], folder: Path, number: int, low: int, high: int
    ) -> Iterator[np.ndarray]:
        """Records that agree in the fields before `names[number]`, and lie in [low, high) by that one."""
        files = _Files(folder, self.dtype)
        shift = np.uint64(max(0, (high - low - 1).bit_length() - _BUCKET_BITS))
        held: list[list[np.ndarray]] = [[] for _ in range(1 << _BUCKET_BITS)]
        held_bytes = 0
        for part in chain.from_iterable(map(self._pieces, batches)):
            buckets = (_above(part[self.names[number]], low) >> shift).astype(np.uint8)
            order = np.argsort(buckets, kind="stable")
            ordered = part[order]
            bounds = np.searchsorted(buckets[order], np.arange(len(held) + 1))
            for bucket in np.flatnonzero(np.diff(bounds)).tolist():
                held[bucket].append(ordered[bounds[bucket] : bounds[bucket + 1]])
            held_bytes += part.nbytes
            if held_bytes > self.most_bytes:
                files.append(held)
                held_bytes = 0
        if not files.counts:
            records = np.concatenate([*chain.from_iterable(held), np.empty(0, self.dtype)])
            held.clear()
            if len(records):
                yield self._sorted(records)
            return
        files.append(held)
        for bucket in sorted(files.counts):
            if files.counts[bucket] * self.dtype.itemsize <= self.most_bytes:
                yield self._sorted(files.read(bucket, 0, files.counts[bucket]))
            else:
                yield from self._sort_large(files, bucket, number)
            files.remove(bucket)

    def _sort_large(self, files: "_Files", bucket: int, number: int) -> Iterator[np.ndarray]:
        """One level deeper: by the first field that is not the same in all records of a file."""
        for deeper in range(number, len(self.names)):
            ranges = [_range(part[self.names[deeper]]) for part in self._parts(files, bucket)]
            low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
            if low < high:
                folder = files.folder / f"below-{bucket}"
                folder.mkdir()
                yield from self.sort(self._parts(files, bucket), folder, deeper, low, high + 1)
                folder.rmdir()
                return
        yield from self._parts(files, bucket)  # all the same

    def _parts(self, files: "_Files", bucket: int) -> Iterator[np.ndarray]:
        for start in range(0, files.counts[bucket], self._piece):
            yield files.read(bucket, start, min(self._piece, files.counts[bucket] - start))

    def _pieces(self, batch: np.ndarray) -> Iterator[np.ndarray]:
        assert batch.dtype == self.dtype
        return (batch[start : start + self._piece] for start in range(0, len(batch), self._piece))

    @property
    def _piece(self) -> int:
        return max(1, self.most_bytes // (4 * self.dtype.itemsize))

    def _sorted(self, records: np.ndarray) -> np.ndarray:
        records = records[np.argsort(records[self.names[0]])]
        first = records[self.names[0]]
        same = first[1:] == first[:-1]
        if same.any():  # few, with hashes: sorting by all fields would take the most of the time
            tied = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
            among = records[tied]
            records[tied] = among[np.lexsort([among[name] for name in reversed(self.names)])]
        return records


class _Files:
    """Records in files, one a bucket; `counts` tells how many are in each."""

    def __init__(self, folder: Path, dtype: np.dtype) -> None:
        self.folder = folder
        self.counts: dict[int, int] = {}
        self._dtype = dtype

    def append(self, held: list[list[np.ndarray]]) -> None:
        """Move what is held in memory to the files. Raises OSError for a full disk."""
        for bucket, parts in enumerate(held):
            if not parts:
                continue
            size = sum(part.nbytes for part in parts)
            with explain_full_disk(self._path(bucket), size), open(self._path(bucket), "ab") as file:
                file.writelines(part.view(np.uint8) for part in parts)  # pyright: ignore[reportArgumentType]
            self.counts[bucket] = self.counts.get(bucket, 0) + size // self._dtype.itemsize
            parts.clear()

    def read(self, bucket: int, start: int, count: int) -> np.ndarray:
        """`count` records of a bucket from number `start` on."""
        return np.fromfile(self._path(bucket), self._dtype, count, offset=start * self._dtype.itemsize)

    def remove(self, bucket: int) -> None:
        """Delete the file of a bucket."""
        self._path(bucket).unlink()

    def _path(self, bucket: int) -> Path:
        return self.folder / f"bucket-{bucket:03d}"


def _all_fields(dtype: np.dtype, first: Sequence[str]) -> tuple[str, ...]:
    assert dtype.names is not None
    names = (*first, *(name for name in dtype.names if name not in first))
    assert all(dtype[name].kind in "ui" for name in names), f"only whole numbers are sorted, not {dtype}"
    return names


def _above(values: np.ndarray, low: int) -> NDArray[np.uint64]:
    """By how much each value is above `low`; modulo 2^64, so that signed ones come out right."""
    wide = values.astype(np.int64).view(np.uint64) if values.dtype.kind == "i" else values.astype(np.uint64)
    return wide - np.uint64(low % (1 << 64))


def _range(values: np.ndarray) -> tuple[int, int]:
    return int(values.min()), int(values.max())
