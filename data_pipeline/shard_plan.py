"""Which sample goes into which shard, and where in it: a pure function of listing, selection and shard size.

What is O(samples) lies on the disk: the listing while the dataset is written, and beside the indexes, for good, the
order: numbers of the listing, shuffled, so that a shard can be written again years later.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.listing import Listing
from data_pipeline.manifest import key_prefix
from data_pipeline.sources import Entry

# Visible, and yet passed over by `datasets` where it looks for data: it skips folders that begin with two underscores.
# Beside the tars the indexes would match its pattern for the split's files.
INDEX_FOLDER = "__index__"
WORK_FOLDER = ".work"  # of an unfinished dataset

_MOST_SHARDS_BY_COUNT = 16  # so that small data sets, too, can be read by several processes at once
_FEW_SAMPLES = 1000
_AT_ONCE = 1_000_000


class ShardNames(NamedTuple):
    """A shard's tar, index and list of sample names, relative to the dataset folder."""

    file: str
    index: str
    names: str


@dataclass(frozen=True)
class SplitPlan:
    """The samples of one split in the order in which they are written. Small, and pickled to where shards are written.

    `listing` is that of the split of the source from which they come, `numbers` the file of their numbers in it.
    `bytes` are those of the images, about, once written.
    """

    split: str
    listing: Listing
    numbers: Path
    samples: int
    bytes: int
    shards: int

    @property
    def prefix(self) -> str:
        """What file names and keys begin with."""
        return key_prefix(self.split)

    def start(self, shard: int) -> int:
        """The place of a shard's first sample in the order; counts of shards differ by at most one."""
        return self.samples * shard // self.shards

    def names(self, shard: int) -> ShardNames:
        """The files of a shard."""
        stem = f"{self.prefix}-{shard:06d}"
        return ShardNames(f"{stem}.tar", f"{INDEX_FOLDER}/{stem}.npy", f"{INDEX_FOLDER}/{stem}.txt")

    def entries(self, shard: int) -> Iterator[Entry]:
        """The samples of a shard, in order."""
        for number in read_numbers(self.numbers)[self.start(shard) : self.start(shard + 1)]:
            yield self.listing.entry(int(number))


@dataclass(frozen=True)
class Plan:
    """All splits; `digest` stands for everything the bytes depend on but the images themselves and the libraries."""

    splits: tuple[SplitPlan, ...]
    classes: tuple[str, ...] | None
    digest: str

    @property
    def samples(self) -> int:
        return sum(split.samples for split in self.splits)

    def all_shards(self) -> Iterator[tuple[SplitPlan, int]]:
        """Every shard in order."""
        return ((split, shard) for split in self.splits for shard in range(split.shards))


class Wanted(NamedTuple):
    """What a plan is made of for one split: where its samples come from, which, and their bytes, about."""

    listing: Listing
    numbers: Path
    bytes: int


def make_plan(
    wanted: Mapping[str, Wanted], classes: tuple[str, ...] | None, listing_digest: str, shard_size: int
) -> Plan:
    """Cut each split into shards of about `shard_size` bytes of images, whose counts differ by at most one."""
    splits = []
    digest = hashlib.sha256(json.dumps([listing_digest, classes]).encode())
    for split, (listing, numbers, size) in wanted.items():
        order = read_numbers(numbers)
        shards = number_of_shards(len(order), size, shard_size)
        splits.append(SplitPlan(split, listing, numbers, len(order), size, shards))
        digest.update(json.dumps([split, listing.split, len(order), shards]).encode())
        for start in range(0, len(order), _AT_ONCE):
            digest.update(np.ascontiguousarray(order[start : start + _AT_ONCE], "<i8").tobytes())
    return Plan(tuple(splits), classes, digest.hexdigest())


def number_of_shards(samples: int, size: int, shard_size: int) -> int:
    """As many as `size` bytes fill; at least one for each thousand samples up to sixteen; none without a sample."""
    by_size, by_count = math.ceil(size / shard_size), min(_MOST_SHARDS_BY_COUNT, samples // _FEW_SAMPLES)
    return min(max(by_size, by_count, 1), samples)


def order_file(folder: Path, split: str) -> Path:
    """Where a dataset folder keeps a split's order."""
    return folder / INDEX_FOLDER / f"{key_prefix(split)}-order.npy"


def read_numbers(path: Path) -> NDArray[np.int64]:
    """The numbers in a file of an order, mapped: shape (samples,)."""
    found = path.stat()
    return _map_numbers(path, found.st_ino, found.st_mtime_ns)


@lru_cache(maxsize=8)
def _map_numbers(path: Path, _inode: int, _written: int) -> NDArray[np.int64]:
    return np.load(path, mmap_mode="r")
