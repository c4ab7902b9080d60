"""Bytes of shards, local or remote, each image verified by its checksum when read.

Local tars are mapped into memory; remote ones are read by blocks (`blocks.py`) through a cache (`block_cache.py`).
"""

import mmap
import os
import tarfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from data_pipeline.block_cache import BlockCache
from data_pipeline.blocks import Recent, RemoteShards, most_open_shards
from data_pipeline.location import RemotePath
from data_pipeline.manifest import DatasetError, Manifest, Split, open_index
from data_pipeline.order import Integers
from data_pipeline.patience import PATIENCE, Patience
from data_pipeline.sample_check import BLOCK, BadHeaderError, read_members
from data_pipeline.withdrawn import read_names

_RETRIES = 3
_LARGE = 32_000  # bytes a sample: smaller ones are read sooner with those around them


class ShardReader:
    """Reads samples of one split by shard number and row. One for each process; never shared; picklable before use.

    Args:
        manifest, split: of the dataset.
        bounds: of the blocks that remote tars are read by, as `blocks.bounds_of` gives them; None for blocks of 8 MB.
        cache: for blocks and indexes of remote tars; None keeps a few blocks in this process's memory.
        singly: read remote samples one by one, where the blocks under way would not fit the cache.
        patience: with the store of remote tars.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: Split,
        bounds: Integers | None = None,
        cache: BlockCache | None = None,
        *,
        singly: bool = False,
        patience: Patience = PATIENCE,
    ) -> None:
        self._manifest = manifest
        self._shards = split.shards
        if isinstance(manifest.tars, RemotePath):
            self._bytes = RemoteShards(manifest, split, bounds, cache=cache, singly=singly, patience=patience)
        else:
            self._bytes = _LocalShards(manifest, split, manifest.tars)

    def index(self, shard: int) -> np.ndarray:
        """A shard's index (dtype `INDEX_DTYPE`)."""
        return self._bytes.index(shard)

    def images(self, shard: int, rows: Integers) -> tuple[list[memoryview], np.ndarray]:
        """The bytes of several images of a shard, without a copy, and their index rows (dtype `INDEX_DTYPE`).

        Raises as `image` does.
        """
        entries = self._bytes.index(shard)[rows]
        starts = entries["image_offset"].tolist()
        stops = (entries["image_offset"] + entries["image_length"]).tolist()
        found = self._bytes.read_many(shard, rows, starts, stops)
        for number, (data, expected) in enumerate(zip(found, entries["image_hash"].tolist(), strict=True)):
            if xxhash.xxh3_64_intdigest(data) != expected:
                found[number] = self.image(shard, int(rows[number]))[0]
        return found, entries

    def image(self, shard: int, row: int, alone: bool = False) -> tuple[memoryview, np.void]:
        """An image's bytes, without a copy, and its index row.

        `alone`: of a remote tar read no more than this image, unless its block is at hand: for the first samples of a
        run, which are not to wait for whole blocks.

        Raises:
            DatasetError: bytes that are absent or differ from their checksum, after retries.
            StoreError: a store that does not give them.
        """
        entry = self._bytes.index(shard)[row]
        start, length, expected = int(entry["image_offset"]), int(entry["image_length"]), int(entry["image_hash"])
        found = 0
        for attempt in range(_RETRIES):
            data = self._bytes.read(shard, row, start, start + length, alone)
            found = xxhash.xxh3_64_intdigest(data)
            if found == expected:
                return data, entry
            time.sleep(0.01 * attempt)  # a network file system may serve a stale page once
            self._bytes.forget(shard, row)
        described = self._shards[shard]
        where = f" of {self._bytes.where(shard)}" if isinstance(self._bytes, RemoteShards) else ""
        raise DatasetError(
            f"shard {described.file}: sample {row}, bytes {start} to {start + length}, stage read: "
            f"checksum {expected:016x} expected, found {found:016x} in {_RETRIES} reads{where}; "
            + self._manifest.repair(described.file)
        )

    def annotations(self, shard: int, row: int) -> dict[str, bytes]:
        """The files beside a sample's image, by extension, verified together; the image itself is not asked for.

        But of remote tars of small samples, whose blocks are read sooner than so many pieces. Raises as `image` does.
        """
        described, entry = self._shards[shard], self._bytes.index(shard)[row]
        start, image, expected = int(entry["offset"]), int(entry["image_offset"]), int(entry["annotation_hash"])
        stop, behind = start + int(entry["length"]), image + -(-int(entry["image_length"]) // BLOCK) * BLOCK
        alone = described.bytes >= _LARGE * described.samples
        for attempt in range(_RETRIES):
            # Usually the image comes first, and nothing but its header before it.
            before = self._bytes.read(shard, row, start, image, alone) if image - start > BLOCK else b""
            after = self._bytes.read(shard, row, behind, stop, alone) if behind < stop else b""
            files = _files_in(bytes(before), bytes(after))
            if xxhash.xxh3_64_intdigest(b"".join(files.values())) == expected:
                return files
            time.sleep(0.01 * attempt)
            self._bytes.forget(shard, row)
        raise DatasetError(
            f"shard {described.file}: sample {row}, bytes {start} to {stop}, stage read: its annotations are not those "
            f"of the index, checksum {expected:016x}, in {_RETRIES} reads; {self._manifest.repair(described.file)}"
        )

    def name(self, shard: int, row: int) -> str:
        """A sample's key, as its tar member spells it without the extension."""
        start = int(self._bytes.index(shard)[row]["offset"])
        header = bytes(self._bytes.read(shard, row, start, start + 512, alone=True))
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        if not member.isreg():  # a long name, in tars of others: its header only announces it
            return read_names(self._manifest, self._shards[shard])[row]
        return member.name.split(".", 1)[0]


def _files_in(before: bytes, after: bytes) -> dict[str, bytes]:
    """Files by extension, in what stands before and after an image in a sample; {} where a header is damaged."""
    files: dict[str, bytes] = {}
    try:
        for part in (before, after):
            for member in read_members(part):
                folders, _, last = member.name.removeprefix("./").rpartition("/")
                stem, _, extension = last.partition(".")
                # The image begins where the part before it ends; what is hidden, or WebDataset's own, is of no sample.
                if member.start < len(part) and stem and extension and not f"{folders}{stem}".startswith("__"):
                    files[extension.lower()] = part[member.start : member.stop]
    except BadHeaderError:
        return {}
    return files


class _OpenShard(NamedTuple):
    index: np.ndarray
    view: memoryview
    map: mmap.mmap | None  # where each image is asked for before it is read


class _LocalShards:
    """Tars in a folder, mapped."""

    def __init__(self, manifest: Manifest, split: Split, tars: Path) -> None:
        self._manifest, self._shards, self._tars = manifest, split.shards, tars
        self._open: Recent[_OpenShard] = Recent(most_open_shards())

    def index(self, shard: int) -> np.ndarray:
        """A shard's index. Raises DatasetError."""
        return self._get(shard).index

    def read(self, shard: int, row: int, start: int, stop: int, alone: bool) -> memoryview:
        """The bytes from `start` to `stop` of a tar, not verified; any row, alone or not. Raises DatasetError."""
        opened = self._get(shard)
        _ask_for(opened, start, stop)
        return opened.view[start:stop]

    def read_many(self, shard: int, rows: Integers, starts: list[int], stops: list[int]) -> list[memoryview]:
        """The same for many samples."""
        opened = self._get(shard)
        for start, stop in zip(starts, stops, strict=True):
            _ask_for(opened, start, stop)
        return [opened.view[start:stop] for start, stop in zip(starts, stops, strict=True)]

    def forget(self, shard: int, row: int) -> None:
        """Nothing: the tar itself is mapped, not a copy of it."""

    def _get(self, number: int) -> _OpenShard:
        opened = self._open.get(number)
        if opened is None:
            opened = self._map(number)
            self._open.put(number, opened)
        return opened

    def _map(self, number: int) -> _OpenShard:
        shard = self._shards[number]
        path = self._tars / shard.file
        repair = self._manifest.repair(shard.file)
        if not path.is_file():
            raise DatasetError(f"shard {shard.file}: missing from {self._tars}; {repair}")
        index = open_index(self._manifest, shard)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != shard.bytes:
                raise DatasetError(f"shard {shard.file}: manifest lists {shard.bytes} bytes, found {size}; {repair}")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # Left to itself, the system reads around what is touched, up to megabytes, which other ranks read as well: two
        # machines, each with half of the lanes, read the dataset 1.9 times in an epoch.
        has_large = shard.bytes >= _LARGE * shard.samples and hasattr(mmap, "MADV_RANDOM")
        if has_large:
            data.madvise(mmap.MADV_RANDOM)
        return _OpenShard(index, memoryview(data), data if has_large else None)


def _ask_for(opened: _OpenShard, start: int, stop: int) -> None:
    """Have the system read these bytes of a tar in one go, and no others."""
    if opened.map is not None:
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        opened.map.madvise(mmap.MADV_WILLNEED, first, stop - first)
