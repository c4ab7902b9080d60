"""Rows of .npy files, whoever wrote their headers."""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.manifest import INDEX_DTYPE
from data_pipeline.mapped_rows import rows_of

ROWS = np.zeros(5, INDEX_DTYPE)
ROWS["place"] = np.arange(5)


def written(path: Path, *, padding: int = 0) -> bytes:
    """The file of those rows; `padding` bytes more in its header than this version of NumPy writes."""
    np.save(path, ROWS)
    data = path.read_bytes()
    length = int.from_bytes(data[8:10], "little")
    header = data[10 : 10 + length].rstrip() + b" " * padding
    header += b" " * (-(10 + len(header) + 1) % 16) + b"\n"
    if padding:
        data = data[:8] + len(header).to_bytes(2, "little") + header + data[10 + length :]
        path.write_bytes(data)
    return data


@pytest.mark.parametrize("padding", [0, 200])
@pytest.mark.parametrize("mapped", [False, True])
def test_the_rows_are_those_that_numpy_reads(tmp_path: Path, padding: int, mapped: bool):
    path = tmp_path / "rows.npy"
    data = written(path, padding=padding)
    assert np.load(path).tolist() == ROWS.tolist()
    found = rows_of(data, INDEX_DTYPE, 5, path if mapped else None)
    assert found.dtype == INDEX_DTYPE
    assert found.tolist() == ROWS.tolist()
    assert rows_of(memoryview(data), INDEX_DTYPE, 5).tolist() == ROWS.tolist()
    if mapped:
        with pytest.raises(ValueError, match="read-only"):
            found["place"] = 7


def test_no_rows(tmp_path: Path):
    np.save(tmp_path / "none.npy", ROWS[:0])
    assert len(rows_of((tmp_path / "none.npy").read_bytes(), INDEX_DTYPE, 0, tmp_path / "none.npy")) == 0


def test_other_rows_than_were_promised_are_not_taken_for_them(tmp_path: Path):
    data = written(tmp_path / "rows.npy")
    with pytest.raises(AssertionError):
        rows_of(data, INDEX_DTYPE, 4)
    with pytest.raises(AssertionError):
        rows_of(data, np.dtype([("place", "<u4")]), 5)
