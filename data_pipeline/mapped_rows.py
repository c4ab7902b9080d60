"""One-dimensional .npy files whose dtype and length are known beforehand, such as the indexes of shards.

NumPy evaluates their headers as Python, which takes ten times as long as all the rest of opening a small index.
"""

import io
import mmap
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.lib import format as npy


def rows_of(data: bytes | memoryview, dtype: np.dtype, count: int, path: Path | None = None) -> np.ndarray:
    """The `count` rows of a .npy file, read-only, from its bytes; with `path`, where they were read, from its pages."""
    header = _header(dtype, count)
    if data[: len(header)] != header:  # as another version of NumPy wrote it
        found = np.load(io.BytesIO(data), allow_pickle=False) if path is None else np.load(path, mmap_mode="r")
        assert (found.shape, found.dtype) == ((count,), dtype)
        return found
    if path is None:
        return np.frombuffer(data, dtype, count, len(header))
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(pages, dtype, count, len(header))


@lru_cache(maxsize=64)
def _header(dtype: np.dtype, count: int) -> bytes:
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)})
    return header.getvalue()
