"""Sorting on the disk against NumPy's sorting, with little memory and unwelcome values."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.disk_sort import sort_on_disk
from data_pipeline.randomness import hash_array

RECORD = np.dtype([("size", "<u4"), ("hash", "<u8"), ("label", "<i4")])
FEW_VALUES = st.sampled_from([0, 1, 2**63, 2**64 - 1])
ROWS = st.lists(
    st.tuples(st.integers(0, 3), FEW_VALUES | st.integers(0, 2**64 - 1), st.integers(-(2**31), 2**31 - 1)), max_size=300
)


def collect(batches: list[np.ndarray], folder: Path, most_bytes: int) -> np.ndarray:
    parts = list(sort_on_disk(batches, folder, ("hash", "label"), most_bytes))
    assert all(len(part) for part in parts)
    assert not list(folder.iterdir())
    return np.concatenate([np.empty(0, RECORD), *parts])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, cuts=st.lists(st.integers(0, 300), max_size=4), most_bytes=st.sampled_from([16, 700, 100_000]))
def test_as_numpy_sorts(tmp_path: Path, rows: list[tuple[int, ...]], cuts: list[int], most_bytes: int) -> None:
    records = np.array(rows, RECORD)
    found = collect(np.split(records, sorted(cuts)), tmp_path, most_bytes)
    np.testing.assert_array_equal(found, np.sort(records, order=["hash", "label", "size"]))


@pytest.mark.parametrize("alike", ["hash", "all", "nearly"])
def test_overfull_buckets(tmp_path: Path, alike: str) -> None:
    count = 20_000
    records = np.zeros(count, RECORD)
    if alike == "hash":
        records["hash"] = 7
        records["label"] = hash_array(1, np.arange(count, dtype=np.uint64)).astype(np.int32)
    elif alike == "nearly":
        records["hash"] = 2**60 + hash_array(1, np.arange(count, dtype=np.uint64)) % np.uint64(5000)
        records["size"] = np.arange(count) % 3
    found = collect([records], tmp_path, 20_000)
    np.testing.assert_array_equal(found, np.sort(records, order=["hash", "label", "size"]))


def test_the_order_in_which_records_come_does_not_matter(tmp_path: Path) -> None:
    records = np.zeros(5000, RECORD)
    records["hash"] = np.arange(5000) // 4
    records["size"] = np.arange(5000) % 4
    one = collect([records], tmp_path, 10_000)
    np.testing.assert_array_equal(one, collect([records[::-1].copy()], tmp_path, 10_000))


def test_an_abandoned_sort_leaves_no_files(tmp_path: Path) -> None:
    records = np.zeros(10_000, RECORD)
    records["hash"] = hash_array(1, np.arange(10_000, dtype=np.uint64))
    sorting = sort_on_disk([records], tmp_path, ("hash",), 10_000)
    next(sorting)
    assert list(tmp_path.iterdir())
    sorting.close()  # type: ignore[attr-defined]
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    most, length = 4_000_000, 20_000

    def batches(count: int) -> Iterator[np.ndarray]:
        for start in range(0, count, length):
            records = np.zeros(length, RECORD)
            records["hash"] = hash_array(3, np.arange(start, start + length, dtype=np.uint64))
            yield records

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            seen, last = 0, np.uint64(0)
            for part in sort_on_disk(batches(count), tmp_path, ("hash",), most):
                assert last <= part["hash"][0]
                seen, last = seen + len(part), part["hash"][-1]
            assert seen == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert 2_000_000 * RECORD.itemsize > 7 * most
    assert peak(2_000_000) < 1.25 * most
