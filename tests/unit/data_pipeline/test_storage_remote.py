"""Datasets in a store: one request for a block, whoever reads it; damage and outages are named, or healed."""

import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from data_pipeline.block_cache import BlockCache
from data_pipeline.location import RemotePath, StoreError
from data_pipeline.manifest import DatasetError, Manifest
from data_pipeline.patience import Patience
from data_pipeline.prefetch import Prefetcher
from data_pipeline.storage import ShardReader

BOUNDS = np.array([0, 3, 6, 8, 10])  # four blocks: two in either shard
ROWS = np.dtype([("dataset", "<i8"), ("shard", "<i8"), ("index", "<i8")])
IMPATIENT = Patience(tries=1)


class Store:
    """fsspec's store in memory, that notes what is asked of it and spoils answers on demand."""

    def __init__(self) -> None:
        self.files = fsspec.filesystem("memory")
        self.async_impl = False
        self.asked: list[tuple[str, int, int]] = []
        self.spoil: Callable[[str, bytes], bytes] = lambda _, data: data

    def info(self, url: str) -> dict[str, Any]:
        return self.files.info(url)

    def cat_file(self, url: str, start: int, end: int) -> bytes:
        name = url.rpartition("/")[2]
        self.asked.append((name, start, end))
        return self.spoil(name, self.files.cat_file(url, start=start, end=end))

    def tars(self) -> list[tuple[str, int, int]]:
        return [asked for asked in self.asked if asked[0].endswith(".tar")]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    made = Store()
    monkeypatch.setattr("data_pipeline.transfer._file_system", lambda *_: made)
    yield made
    made.files.store.clear()


@pytest.fixture
def local(make_dataset: Callable[..., Manifest]) -> Manifest:
    return make_dataset([6, 4])


@pytest.fixture
def remote(local: Manifest, store: Store) -> Manifest:
    assert isinstance(local.folder, Path)
    for path in local.folder.iterdir():
        store.files.pipe(f"/set/{path.name}", path.read_bytes())
    return replace(local, folder=RemotePath("memory://set"))


@pytest.fixture
def cache(tmp_path: Path) -> BlockCache:
    return BlockCache(tmp_path / "cache", 10_000_000)


def reader(manifest: Manifest, cache: BlockCache | None = None, **options: Any) -> ShardReader:
    return ShardReader(manifest, manifest.split("train"), BOUNDS, cache, patience=IMPATIENT, **options)


def read_all(reading: ShardReader) -> list[bytes]:
    return [bytes(reading.image(shard, row)[0]) for shard, count in ((0, 6), (1, 4)) for row in range(count)]


def test_all_samples_come_by_one_request_a_block(
    local: Manifest, remote: Manifest, store: Store, cache: BlockCache
) -> None:
    expected = read_all(reader(local))
    first = reader(remote, cache)
    assert read_all(first) == expected
    assert [name for name, *_ in store.tars()] == ["train-000000.tar"] * 2 + ["train-000001.tar"] * 2
    assert len(store.asked) == 6
    assert first.name(1, 2) == "train-000000008"
    assert int(first.index(1)[2]["label"]) == 8
    for again in (first, reader(remote, cache), pickle.loads(pickle.dumps(reader(remote, cache)))):  # noqa: S301
        assert read_all(again) == expected
    assert len(store.asked) == 6


def test_images_are_views_of_the_cache(remote: Manifest, cache: BlockCache) -> None:
    reading = reader(remote, cache)
    one, other = reading.image(0, 0)[0], reading.image(0, 1)[0]
    assert type(one.obj).__name__ == "mmap"
    assert one.obj is other.obj


def test_without_a_cache_blocks_stay_in_memory(local: Manifest, remote: Manifest, store: Store) -> None:
    assert read_all(reader(remote)) == read_all(reader(local))
    assert len(store.tars()) == 4
    assert read_all(ShardReader(remote, remote.split("train"))) == read_all(reader(local))


def test_samples_are_read_singly(remote: Manifest, store: Store, cache: BlockCache) -> None:
    single = reader(remote, cache, singly=True)
    data, entry = single.image(0, 4)
    start = int(entry["image_offset"])
    assert store.tars() == [("train-000000.tar", start, start + len(data))]


def test_the_first_samples_are_read_alone_unless_their_block_is_there(
    remote: Manifest, store: Store, cache: BlockCache
) -> None:
    reading = reader(remote, cache)
    data, entry = reading.image(0, 4, alone=True)
    start = int(entry["image_offset"])
    assert store.tars() == [("train-000000.tar", start, start + len(data))]
    reader(remote, cache).image(0, 4)
    assert len(store.tars()) == 2
    assert reading.image(0, 5, alone=True)[0] != data
    assert len(store.tars()) == 2


def test_the_index_may_lie_apart_from_the_tars(local: Manifest, remote: Manifest, store: Store) -> None:
    apart = replace(local, tars_at="memory://set")
    assert read_all(reader(apart)) == read_all(reader(local))
    assert len(store.asked) == 4


def altered(data: bytes) -> bytes:
    return data[:-600] + bytes([data[-600] ^ 1]) + data[-599:]


def spoil_image(reading: ShardReader, shard: int, row: int, data: bytes, start: int) -> bytes:
    at = int(reading.index(shard)[row]["image_offset"]) - start
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_damaged_block_is_fetched_again(local: Manifest, remote: Manifest, store: Store, cache: BlockCache) -> None:
    left = [2]

    def spoil(name: str, data: bytes) -> bytes:
        if name != "train-000000.tar" or not left[0]:
            return data
        left[0] -= 1
        return spoil_image(reader(local), 0, 0, data, 0)

    store.spoil = spoil
    assert read_all(reader(remote, cache)) == read_all(reader(local))
    assert left == [0]
    assert read_all(reader(remote, cache)) == read_all(reader(local))


@pytest.mark.parametrize("singly", [False, True])
def test_an_altered_image_is_named(
    local: Manifest, remote: Manifest, store: Store, cache: BlockCache, singly: bool
) -> None:
    entry = reader(local).index(0)[1]
    start, stop = int(entry["image_offset"]), int(entry["image_offset"] + entry["image_length"])
    data = bytearray(store.files.cat_file("/set/train-000000.tar"))
    data[start] ^= 1
    store.files.pipe("/set/train-000000.tar", bytes(data))
    expected = (
        rf"^shard train-000000.tar: sample 1, bytes {start} to {stop}, stage read: checksum [0-9a-f]{{16}} expected, "
        r"found [0-9a-f]{16} in 3 reads of memory://set/train-000000.tar; rewrite it with: .*train-000000.tar$"
    )
    with pytest.raises(DatasetError, match=expected):
        read_all(reader(remote, cache, singly=singly))
    assert len(store.tars()) == (4 if singly else 3)


def test_an_altered_index_is_named_and_not_kept(remote: Manifest, store: Store, cache: BlockCache) -> None:
    store.spoil = lambda name, data: altered(data) if name.endswith(".npy") else data
    expected = (
        r"^index train-000000.npy: manifest lists sha256 \w{12}, found \w{12} at memory://set/train-000000.npy; rewrite"
    )
    with pytest.raises(DatasetError, match=expected):
        reader(remote, cache).image(0, 0)
    assert len(store.asked) == 3
    store.spoil = lambda _, data: data
    reader(remote, cache).image(0, 0)


@pytest.mark.parametrize(("kind", "file"), [("shard", "train-000000.tar"), ("index", "train-000000.npy")])
def test_a_missing_file_is_named(remote: Manifest, store: Store, cache: BlockCache, kind: str, file: str) -> None:
    store.files.rm(f"/set/{file}")
    with pytest.raises(DatasetError, match=rf"^{kind} {file}: missing from memory://set; rewrite it with: "):
        reader(remote, cache).image(0, 0)


def test_a_cut_tar_is_named(remote: Manifest, store: Store, cache: BlockCache) -> None:
    store.files.pipe("/set/train-000000.tar", store.files.cat_file("/set/train-000000.tar")[:700])
    listed = remote.split("train").shards[0].bytes
    expected = rf"manifest lists {listed} bytes, found 700 at memory://set/train-000000.tar; rewrite it with: "
    with pytest.raises(DatasetError, match=re.escape(expected)):
        reader(remote, cache).image(0, 5)


def test_a_dead_store_is_named(remote: Manifest, store: Store, cache: BlockCache) -> None:
    def away(name: str, _: bytes) -> bytes:
        raise OSError("connection refused, token=word-word")

    reading = reader(remote, cache)
    reading.index(0)[0]
    store.spoil = away
    with pytest.raises(StoreError) as error:
        reading.image(0, 0)
    assert re.match(
        r"shard train-000000.tar: memory://set/train-000000.tar: stage fetch, bytes 0 to \d+ \(0 arrived\): "
        r"OSError: connection refused, "
        r"token=\[redacted\]; gave up after 1 tries in 0 s$",
        str(error.value),
    )


def rows_of(*rows: tuple[int, int, int]) -> np.ndarray:
    return np.array(list(rows), ROWS)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_wanted_blocks_are_there_when_they_are_read(remote: Manifest, store: Store, cache: BlockCache) -> None:
    prefetcher = Prefetcher([(remote, "train")], [BOUNDS], cache, threads=2)
    prefetcher.want(rows_of((0, 1, 3), (0, 0, 1), (0, 0, 2)))
    prefetcher.want(rows_of((0, 0, 0)))
    wait_until(lambda: len(store.tars()) == 2 and len(list(cache.folder.glob("[0-9a-f]*"))) == 4)
    before = len(store.asked)
    reading = reader(remote, cache)
    reading.image(0, 0)
    reading.image(1, 2)
    assert len(store.asked) == before
    prefetcher.close()
    assert len(store.tars()) == 2


def test_prefetching_leaves_failures_to_the_reader(remote: Manifest, store: Store, cache: BlockCache) -> None:
    store.files.rm("/set/train-000000.tar")
    prefetcher = Prefetcher([(remote, "train")], [BOUNDS], cache, threads=1)
    prefetcher.want(rows_of((0, 0, 0), (0, 1, 0)))
    wait_until(lambda: len(list(cache.folder.glob("[0-9a-f]*"))) == 3)
    prefetcher.close()


def test_a_prefetcher_that_waits_for_a_dead_store_ends_promptly(
    remote: Manifest, store: Store, cache: BlockCache
) -> None:
    met = threading.Event()

    def away(name: str, _: bytes) -> bytes:
        met.set()
        raise OSError("connection refused")

    store.spoil = away
    prefetcher = Prefetcher([(remote, "train")], [BOUNDS], cache, threads=1, patience=Patience(jitter=lambda: 1.0))
    prefetcher.want(rows_of((0, 0, 0)))
    assert met.wait(30)
    began = time.monotonic()
    prefetcher.close()
    assert time.monotonic() - began < 10, "it is patient for a minute"
    assert not [thread for thread in prefetcher._threads if thread.is_alive()]


def test_a_local_dataset_needs_no_prefetching(local: Manifest, cache: BlockCache) -> None:
    prefetcher = Prefetcher([(local, "train")], [None], cache)
    prefetcher.want(rows_of((0, 0, 0)))
    assert prefetcher._threads == []
    prefetcher.close()
