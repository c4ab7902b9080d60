"""Counts of whole numbers from which percentiles are read, in memory that does not grow with how many there are."""

import numpy as np
from numpy.typing import NDArray

EXACT_BELOW = 4096

_BITS = 12  # kept of larger numbers
_HALF = EXACT_BELOW // 2


class ValueCounts:
    """A histogram: exact below 4,096, above it by the leading 12 bits, so to within one part in 2,048."""

    def __init__(self) -> None:
        self._counts = np.zeros(EXACT_BELOW + (53 - _BITS) * _HALF, np.int64)
        self._least: int | None = None
        self._most: int | None = None

    def add(self, values: NDArray[np.integer]) -> None:
        """Count values from 0 to below 2^53."""
        if not len(values):
            return
        wide = values.astype(np.uint64)
        assert int(wide.max()) < 1 << 53
        shift = np.maximum(np.frexp(wide.astype(np.float64))[1] - _BITS, 0).astype(np.uint64)
        bins = (wide >> shift) + shift * np.uint64(_HALF)
        counted = np.bincount(bins.astype(np.int64))
        self._counts[: len(counted)] += counted
        least, most = int(wide.min()), int(wide.max())
        self._least = least if self._least is None else min(self._least, least)
        self._most = most if self._most is None else max(self._most, most)

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self._counts.sum())

    def percentile(self, percent: float) -> int:
        """The smallest counted value that at least so many percent do not exceed; 0 gives the least, 100 the largest.

        Above 4,096 the start of its bin.
        """
        assert self._least is not None
        assert self._most is not None
        if percent <= 0 or percent >= 100:
            return self._least if percent <= 0 else self._most
        rank = max(1, int(np.ceil(self.total * percent / 100)))
        place = int(np.searchsorted(np.cumsum(self._counts), rank))
        if place < EXACT_BELOW:
            return place
        shift = (place - _HALF) // _HALF
        return min(max((place - shift * _HALF) << shift, self._least), self._most)
