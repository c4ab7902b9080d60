"""Bootstrap intervals: how far a figure would move if other images of the same kind had been drawn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.randomness import hash_array, key

_PURPOSE = 0x626F6F74  # no other key of the project has this word in second place
_AT_ONCE = 1 << 22  # counts: 32 MB
_EXACT_BITS = 52

Counts = NDArray[np.int64]
"""(draws, n): how often each of n images is in each draw; every row sums to n."""
Statistics = Callable[[Counts], NDArray[np.float64]]
"""The figures (draws, figures) of resampled images; one that a draw does not have is NaN."""


class Interval(NamedTuple):
    """Both ends."""

    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """Percentile intervals over images drawn with replacement (Efron 1979, doi:10.1214/aos/1176344552).

    draws: how many sets of images; 1,000 of them leave an interval's ends an error of up to about a tenth of its half
    width. seed: of the draws. level: share of the draws between both ends.

    Raises:
        ValueError: too few draws, or a level that is no share.
    """

    draws: int = 1000
    seed: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.draws < 100:
            raise ValueError(f"bootstrap: expected at least 100 draws, 1,000 for figures to show, got {self.draws}")
        if not 0 < self.level < 1:
            raise ValueError(f"bootstrap: expected a level between 0 and 1, such as 0.95, got {self.level}")

    def intervals(self, statistics: Statistics, images: int) -> list[Interval]:
        """The interval of each figure, over the draws that have it; the same on any machine and number of threads,
        where `statistics` adds in no particular order only what `summable` gave.
        """
        drawn = np.concatenate([statistics(counts) for counts in self.resampled(images)])
        tail = 50 * (1 - self.level)
        low, high = np.nanpercentile(drawn, (tail, 100 - tail), axis=0)
        return [Interval(*ends) for ends in zip(low.tolist(), high.tolist(), strict=True)]

    def to_json(self, intervals: dict[str, Interval]) -> dict[str, Any]:
        """Intervals by name, and how they were made."""
        how = {"method": "percentile bootstrap over images", "level": self.level}
        return {**how, "draws": self.draws, "seed": self.seed} | {name: list(ends) for name, ends in intervals.items()}

    def resampled(self, images: int) -> Iterator[Counts]:
        """All draws of so many images, some at a time."""
        assert 0 < images < 1 << 32
        some = max(1, _AT_ONCE // images)
        for first in range(0, self.draws, some):
            rows = min(some, self.draws - first)
            counters = np.arange(first * images, (first + rows) * images, dtype=np.uint64)
            luck = hash_array(key(self.seed, _PURPOSE), counters) >> np.uint64(32)
            drawn = (luck * np.uint64(images) >> np.uint64(32)).astype(np.int64).reshape(rows, images)
            drawn += images * np.arange(rows)[:, None]
            yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)


def summable(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values (n, m) rounded so that n of them, also repeated, add up exactly: in whatever order a matrix product takes
    them, the sums are the same bits. What is lost is 2^-52 of n times the largest.
    """
    largest = float(np.abs(values).max(initial=0.0)) * len(values)
    if largest == 0:
        return values
    step = 2.0 ** (np.ceil(np.log2(largest)) - _EXACT_BITS)
    return np.round(values / step) * step
