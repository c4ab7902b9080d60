"""Remote shards, read by blocks: one range request for each, through a cache that all processes of a machine share."""

import hashlib
import io
import resource
from collections import OrderedDict
from collections.abc import Sequence
from math import gcd
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_pipeline.block_cache import BlockCache
from data_pipeline.location import MissingError, RemotePath, ShortError, StoreError
from data_pipeline.manifest import INDEX_DTYPE, DatasetError, Manifest, Shard, Split, open_index, sample_starts
from data_pipeline.order import Integers, Plan, block_bounds
from data_pipeline.patience import PATIENCE, Patience
from data_pipeline.remote import fetch

_RETRIES = 3
_MOST_HELD_WITHOUT_CACHE = 4
Value = TypeVar("Value")


class Rows(NamedTuple):
    """A block's shard, its first row there, and the row after its last one."""

    shard: int
    start: int
    stop: int


class Blocks:
    """Which rows each block of a split holds; `bounds` as `block_bounds` gives them, None for blocks of about 8 MB."""

    def __init__(self, split: Split, bounds: Integers | None = None) -> None:
        self._starts = sample_starts(split)
        self._bounds = bounds_of(split, Plan(lanes=1)) if bounds is None else bounds
        assert self._bounds[-1] == self._starts[-1]

    def numbers(self, shards: Integers, rows: Integers) -> Integers:
        """The blocks' numbers of samples given by shard and row."""
        return np.searchsorted(self._bounds, self._starts[shards] + rows, side="right") - 1

    def number(self, shard: int, row: int) -> int:
        """The block's number of one sample."""
        return int(self.numbers(np.asarray(shard), np.asarray(row)))

    def rows(self, number: int) -> Rows:
        """Which rows a block holds."""
        first, last = self._bounds[number : number + 2].tolist()
        shard = int(np.searchsorted(self._starts, first, side="right")) - 1
        start = int(self._starts[shard])
        return Rows(shard, first - start, last - start)


def bounds_of(split: Split, plan: Plan) -> Integers:
    """First sample number of every block of a split as `plan` cuts it, and at the end the number of samples."""
    return block_bounds(split.table.samples, split.table.bytes, plan)


def fits_cache(splits: Sequence[Split], plan: Plan, world: int, most_bytes: int) -> bool:
    """Whether the blocks that a rank reads at a time fit a cache of `most_bytes`; else read samples singly.

    Each of a rank's lanes has one block of each split under way, and a quarter more are fetched ahead; the cache keeps
    itself filled to three quarters.
    """
    lanes = plan.lanes // gcd(plan.lanes, world)
    under_way = sum(lanes * split.bytes / (len(bounds_of(split, plan)) - 1) for split in splits)
    return under_way * 1.25 <= most_bytes * 0.75


class RemoteShards:
    """The bytes of one split's tars in a store. For one thread; picklable before its first use.

    Args:
        manifest, split: whose tars are remote.
        bounds: of the blocks, see `Blocks`.
        cache: None keeps the last few blocks in this process's memory.
        singly: never read a block, only what is asked for.
        patience: with the store.
        most_open: indexes and blocks kept mapped, each; None for what the limit of open files allows.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: Split,
        bounds: Integers | None = None,
        *,
        cache: BlockCache | None = None,
        singly: bool = False,
        patience: Patience = PATIENCE,
        most_open: int | None = None,
    ) -> None:
        tars = manifest.tars
        assert isinstance(tars, RemotePath)
        self.blocks = Blocks(split, bounds)
        self._manifest, self._shards, self._tars = manifest, split.shards, tars
        self._cache, self._singly, self._patience = cache, singly, patience
        most = most_open or most_open_shards()
        self._indexes: Recent[np.ndarray] = Recent(most)
        self._held: Recent[tuple[memoryview, int]] = Recent(most if cache else _MOST_HELD_WITHOUT_CACHE)

    def index(self, shard: int) -> np.ndarray:
        """A shard's index (dtype `INDEX_DTYPE`). Raises DatasetError and StoreError."""
        index = self._indexes.get(shard)
        if index is None:
            index = remote_index(self._manifest, self._shards[shard], self._cache, self._patience)
            self._indexes.put(shard, index)
        return index

    def read(self, shard: int, row: int, start: int, stop: int, alone: bool = False) -> memoryview:
        """The bytes from `start` to `stop` of a tar, which belong to a sample: from its block, not verified.

        `alone`: where the block is not at hand, ask for these bytes only.

        Raises:
            DatasetError: the tar is missing or shorter than the manifest lists. StoreError: a store that fails.
        """
        number = self.blocks.number(shard, row)
        held = self._held.get(number)
        if held is None and not self._singly:
            held = self._take(number, alone)
        if held is None:
            return memoryview(self._ask(shard, start, stop))
        data, first = held
        return data[start - first : stop - first]

    def read_many(self, shard: int, rows: Integers, starts: list[int], stops: list[int]) -> list[memoryview]:
        """The same for many samples."""
        return [self.read(shard, *place) for place in zip(rows.tolist(), starts, stops, strict=True)]

    def forget(self, shard: int, row: int) -> None:
        """Read a sample's block anew when it is wanted next: its bytes are wrong."""
        number = self.blocks.number(shard, row)
        self._held.drop(number)
        if self._cache is not None:
            self._cache.drop(self._span(number)[2])

    def bring(self, number: int) -> None:
        """Have a block in the cache, unless another process or thread is fetching it. Raises as `read` does."""
        assert self._cache is not None
        start, stop, key = self._span(number)
        if not self._cache.holds(key):
            self._cache.get(key, lambda: self._ask(self.blocks.rows(number).shard, start, stop), wait=False)

    def where(self, shard: int) -> RemotePath:
        """The URL of a tar."""
        return self._tars / self._shards[shard].file

    def _take(self, number: int, alone: bool) -> tuple[memoryview, int] | None:
        start, stop, key = self._span(number)
        shard = self.blocks.rows(number).shard
        if alone:
            data = None if self._cache is None else self._cache.find(key)
        elif self._cache is None:
            data = memoryview(self._ask(shard, start, stop))
        else:
            data = self._cache.get(key, lambda: self._ask(shard, start, stop))
        if data is None:
            return None
        self._held.put(number, (data, start))
        return data, start

    def _span(self, number: int) -> tuple[int, int, str]:
        """A block's first byte, the byte after its last one, and its key in the cache."""
        rows = self.blocks.rows(number)
        index = self.index(rows.shard)[rows.start : rows.stop]
        start, stop = int(index["offset"].min()), int((index["offset"] + index["length"]).max())
        return start, stop, _key(self._shards[rows.shard].sha256 or self._shards[rows.shard].index_sha256, start, stop)

    def _ask(self, number: int, start: int, stop: int) -> bytes:
        shard = self._shards[number]
        repair = self._manifest.repair(shard.file)
        try:
            return fetch(self.where(number), start, stop, self._patience)
        except MissingError:
            problem = f"missing from {self._tars}"
        except ShortError as error:
            problem = f"manifest lists {shard.bytes} bytes, found {error.size} at {self.where(number)}"
        except StoreError as error:
            raise StoreError(f"shard {shard.file}: {error}") from None
        raise DatasetError(f"shard {shard.file}: {problem}; {repair}")


def remote_index(
    manifest: Manifest, shard: Shard, cache: BlockCache | None = None, patience: Patience = PATIENCE
) -> NDArray:
    """A shard's index (dtype `INDEX_DTYPE`), verified by its hash when fetched, then mapped from the cache.

    Raises:
        DatasetError: the index is absent or differs from the manifest. StoreError: a store that fails.
    """
    if not isinstance(manifest.folder, RemotePath):
        return open_index(manifest, shard)
    path = manifest.folder / shard.index
    repair = manifest.repair(shard.file)

    def verified() -> bytes:
        found = ""
        for _ in range(_RETRIES):
            try:
                data = fetch(path, 0, None, patience)
            except MissingError:
                break
            found = hashlib.sha256(data).hexdigest()
            if found == shard.index_sha256:
                return data
        listed = f"manifest lists sha256 {shard.index_sha256[:12]}, found {found[:12]} at {path}"
        raise DatasetError(f"index {shard.index}: {listed if found else f'missing from {manifest.folder}'}; {repair}")

    data = memoryview(verified()) if cache is None else cache.get(_key(shard.index_sha256, 0, 0), verified)
    assert data is not None
    header = io.BytesIO(data[:4096])
    assert np.lib.format.read_magic(header) == (1, 0)
    shape, _, dtype = np.lib.format.read_array_header_1_0(header)
    assert (shape, dtype) == ((shard.samples,), INDEX_DTYPE)
    return np.frombuffer(data, INDEX_DTYPE, offset=header.tell())


class Recent(Generic[Value]):
    """The `most` values used last, by number."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[int, Value] = OrderedDict()

    def get(self, number: int) -> Value | None:
        """The value of that number, if it is kept."""
        value = self._values.get(number)
        if value is not None:
            self._values.move_to_end(number)
        return value

    def put(self, number: int, value: Value) -> None:
        """Keep a value, and let go of the one not used for longest; a map ends with the last view of it."""
        self._values[number] = value
        if len(self._values) > self._most:
            self._values.popitem(last=False)

    def drop(self, number: int) -> None:
        """Let go of a value."""
        self._values.pop(number, None)


def most_open_shards() -> int:
    """Each takes two file descriptors, and a process may have 256 (macOS) or 1,024 (Linux) of them."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1024 if soft == resource.RLIM_INFINITY else max(8, min(1024, soft // 4))


def _key(content: str, start: int, stop: int) -> str:
    return xxhash.xxh3_128_hexdigest(f"{content} {start} {stop}".encode())
