"""Which sample goes into which shard, and where in it: a pure function of the listing, the seed and the shard size."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_pipeline.randomness import Purpose, key
from data_pipeline.sources import Contents, Entry, Listing

# Visible, and yet passed over by `datasets` where it looks for data: it skips folders that begin with two underscores.
# Beside the tars the indexes would match its pattern for the split's files.
INDEX_FOLDER = "__index__"
WORK_FOLDER = ".work"  # of an unfinished dataset

_MOST_SHARDS_BY_COUNT = 16  # so that small data sets, too, can be read by several processes at once
_FEW_SAMPLES = 1000


class ShardNames(NamedTuple):
    """A shard's tar, index and list of sample names, relative to the dataset folder."""

    file: str
    index: str
    names: str


@dataclass(frozen=True)
class SplitPlan:
    """The samples of one split in the order in which they are written; `starts[i]` is the first of shard i."""

    split: str
    listing: Listing
    order: NDArray[np.int64]
    starts: tuple[int, ...]

    @property
    def prefix(self) -> str:
        """What file names and keys begin with: the split's name, without dots, which end a key in a WebDataset."""
        return re.sub(r"[^A-Za-z0-9_-]", "_", self.split)

    @property
    def shards(self) -> int:
        return len(self.starts) - 1

    def names(self, shard: int) -> ShardNames:
        """The files of a shard."""
        stem = f"{self.prefix}-{shard:06d}"
        return ShardNames(f"{stem}.tar", f"{INDEX_FOLDER}/{stem}.npy", f"{INDEX_FOLDER}/{stem}.txt")

    def size(self, shard: int) -> int:
        """Bytes of a shard's images, as listed."""
        return int(self.listing.sizes[self.order[self.starts[shard] : self.starts[shard + 1]]].sum())

    def entries(self, shard: int) -> tuple[Entry, ...]:
        """The samples of a shard, in order."""
        numbers = self.order[self.starts[shard] : self.starts[shard + 1]]
        return tuple(self.listing.entry(int(number)) for number in numbers)


@dataclass(frozen=True)
class Plan:
    """All splits; `digest` stands for everything the bytes depend on but the images themselves and the libraries."""

    splits: tuple[SplitPlan, ...]
    classes: tuple[str, ...] | None
    digest: str

    @property
    def samples(self) -> int:
        return sum(len(split.listing) for split in self.splits)

    def find(self, file: str) -> tuple[SplitPlan, int] | None:
        """The split and number of a shard by its file name."""
        for split, shard in self.all_shards():
            if split.names(shard).file == file:
                return split, shard
        return None

    def all_shards(self) -> Iterator[tuple[SplitPlan, int]]:
        """Every shard in order."""
        return ((split, shard) for split in self.splits for shard in range(split.shards))


def make_plan(contents: Contents, seed: int, shard_size: int) -> Plan:
    """Shuffle each split by hashes of its samples' names, and cut it into shards whose counts differ by at most one.

    `shard_size` is in bytes of images.
    """
    splits = []
    for split, listing in contents.splits.items():
        count = number_of_shards(len(listing), int(listing.sizes.sum()), shard_size)
        starts = tuple(len(listing) * shard // count for shard in range(count + 1))
        splits.append(SplitPlan(split, listing, shuffle(listing, seed), starts))
    return Plan(tuple(splits), contents.classes, _digest(contents, splits))


def number_of_shards(samples: int, size: int, shard_size: int) -> int:
    """As many as `size` bytes fill; at least one for each thousand samples up to sixteen; none without a sample."""
    by_size, by_count = math.ceil(size / shard_size), min(_MOST_SHARDS_BY_COUNT, samples // _FEW_SAMPLES)
    return min(max(by_size, by_count, 1), samples)


def shuffle(listing: Listing, seed: int) -> NDArray[np.int64]:
    """Numbers of the listing in an order that depends on the names and the seed alone."""
    hashes = np.fromiter(
        (key(seed, Purpose.SHARD_SHUFFLE, xxhash.xxh3_64_intdigest(os.fsencode(name))) for name in listing.names),
        np.uint64,
        len(listing),
    )
    return np.argsort(hashes, kind="stable")


def _digest(contents: Contents, splits: list[SplitPlan]) -> str:
    digest = hashlib.sha256(json.dumps(contents.classes).encode())
    for plan in splits:
        listing = plan.listing
        digest.update(json.dumps([plan.split, len(listing), plan.starts]).encode())
        for name in listing.names:
            digest.update(os.fsencode(name) + b"\0")
        for numbers in (listing.labels, listing.sizes, plan.order):
            digest.update(numbers.astype("<i8").tobytes())
    return digest.hexdigest()
