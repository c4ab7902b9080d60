"""Whether two classifiers differ, judged on the same images."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretrain.intervals import Bootstrap, Counts, Interval

_FEW = 25  # discordant images, below which the chi-squared distribution is not close enough


class McNemar(NamedTuple):
    """McNemar's test (1947, doi:10.1007/BF02295996) of whether two classifiers are right equally often.

    b: images of which only the first is right. c: only the second. p: two-sided. exact: whether it comes from the
    binomial distribution, as of fewer than 25 discordant images, when `statistic` is the smaller of b and c; otherwise
    `statistic` is chi-squared of one degree of freedom with Edwards' continuity correction (1948,
    doi:10.1007/BF02289261), (|b - c| - 1)^2 / (b + c).
    """

    b: int
    c: int
    statistic: float
    p: float
    exact: bool


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """The test of two classifiers that are right, or not, of the same images."""
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = b + c
    if discordant < _FEW:
        fewer = min(b, c)
        ways = sum(math.comb(discordant, k) for k in range(fewer + 1))
        return McNemar(b, c, float(fewer), min(1.0, 2 * ways / 2**discordant), exact=True)
    statistic = max(abs(b - c) - 1, 0) ** 2 / discordant
    return McNemar(b, c, statistic, math.erfc(math.sqrt(statistic / 2)), exact=False)


def difference_interval(first: NDArray[np.bool_], second: NDArray[np.bool_], bootstrap: Bootstrap) -> Interval:
    """Of the second's accuracy minus the first's: whole images are drawn, with what both make of them."""
    better = second.astype(np.int64) - first

    def statistics(counts: Counts) -> NDArray[np.float64]:
        return (counts @ better / len(better))[:, None]

    (interval,) = bootstrap.intervals(statistics, len(better))
    return interval


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several tests, in their order, corrected so that all of them together err at the level at which one
    is read (Holm 1979): the smallest times their number, the next times one less, and none below the one before.
    """
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = largest
    return adjusted
