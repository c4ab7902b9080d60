"""Bytes of shards: tars mapped into memory, each image verified by its checksum when read."""

import mmap
import os
import resource
import tarfile
import time
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import xxhash

from data_pipeline.manifest import DatasetError, Manifest, Shard, Split, open_index

_RETRIES = 3


class _OpenShard(NamedTuple):
    index: np.ndarray
    data: mmap.mmap
    view: memoryview


class ShardReader:
    """Reads samples of one split by shard number and row. One for each process; never shared."""

    def __init__(self, manifest: Manifest, split: Split) -> None:
        self._manifest = manifest
        self._shards = split.shards
        self._most_open = _most_open_shards()
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()

    def row(self, shard: int, row: int) -> np.void:
        """The index row of a sample."""
        return self._get(shard).index[row]

    def image(self, shard: int, row: int) -> tuple[memoryview, np.void]:
        """An image's bytes, without a copy, and its index row.

        Raises:
            DatasetError: bytes that are absent or differ from their checksum, after retries.
        """
        opened = self._get(shard)
        entry = opened.index[row]
        start, length, expected = int(entry["image_offset"]), int(entry["image_length"]), int(entry["image_hash"])
        found = 0
        for attempt in range(_RETRIES):
            data = opened.view[start : start + length]
            found = xxhash.xxh3_64_intdigest(data)
            if found == expected:
                return data, entry
            time.sleep(0.01 * attempt)  # a network file system may serve a stale page once
        described = self._shards[shard]
        raise DatasetError(
            f"shard {described.file}: sample {row}, bytes {start} to {start + length}, stage read: "
            f"checksum {expected:016x} expected, found {found:016x} in {_RETRIES} reads; "
            f"rewrite it with: {self._manifest.repair(described.file)}"
        )

    def name(self, shard: int, row: int) -> str:
        """A sample's key, as its tar member spells it without the extension."""
        opened = self._get(shard)
        start = int(opened.index[row]["offset"])
        header = tarfile.TarInfo.frombuf(bytes(opened.view[start : start + 512]), "utf-8", "strict")
        return header.name.split(".", 1)[0]

    def _get(self, number: int) -> _OpenShard:
        opened = self._open.get(number)
        if opened is None:
            opened = self._open[number] = self._map(self._shards[number])
            if len(self._open) > self._most_open:
                self._open.popitem(last=False)  # unmapped when the last view of it is gone
        else:
            self._open.move_to_end(number)
        return opened

    def _map(self, shard: Shard) -> _OpenShard:
        path = self._manifest.folder / shard.file
        repair = f"rewrite it with: {self._manifest.repair(shard.file)}"
        if not path.is_file():
            raise DatasetError(f"shard {shard.file}: missing from {self._manifest.folder}; {repair}")
        index = open_index(self._manifest, shard)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != shard.bytes:
                raise DatasetError(f"shard {shard.file}: manifest lists {shard.bytes} bytes, found {size}; {repair}")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _OpenShard(index, data, memoryview(data))


def _most_open_shards() -> int:
    """Each takes two file descriptors, and a process may have 256 (macOS) or 1,024 (Linux) of them."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1024 if soft == resource.RLIM_INFINITY else max(8, min(1024, soft // 4))
