"""What a teacher's cache has to know of what it keeps: what that is called, and how rows of it lie in files."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")
Columns = Mapping[str, NDArray[Any]]
"""Arrays of b rows, by the names of their files."""
_EXPONENT = np.uint16(0x7C00)  # all of its bits are set in half precision's infinities and NaNs alone


@runtime_checkable
class RowFormat(Protocol[T]):
    """How something that a teacher says of images, a T of b of them, is kept as one row of each."""

    @property
    def noun(self) -> str:
        """What it is, in the plural, for messages."""
        ...

    @property
    def refusal(self) -> str:
        """What is wrong with rows that do not fit, what is expected, and what to do, for a message."""
        ...

    @property
    def saving(self) -> str:
        """An option that makes rows or their number smaller, as the end of "free some space"; empty for none."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of all columns that there can be."""
        ...

    @property
    def columns(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Type and shape of what each column holds of one row."""
        ...

    def fits(self, judged: T) -> Bool[Tensor, " b"]:
        """Which rows can be kept."""
        ...

    def pack(self, judged: T) -> dict[str, NDArray[Any]]:
        """The columns of rows that fit."""
        ...

    def unpack(self, columns: Columns) -> T:
        """What training is given of finite columns, on the CPU."""
        ...


def are_finite(columns: Columns) -> NDArray[np.bool_]:
    """Which rows have finite numbers in all of their columns: (b,)."""
    found = np.True_
    for column in columns.values():
        rows = column.reshape(len(column), -1)
        if column.dtype == np.dtype("<f2"):
            # numpy's own test takes fifty times as long, and rows of features are large.
            found = found & ((rows.view("<u2") & _EXPONENT).max(axis=1) < _EXPONENT)
        else:
            found = found & np.isfinite(rows).all(axis=1)
    return np.asarray(found)
