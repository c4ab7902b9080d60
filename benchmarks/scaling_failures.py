"""Runs that are interrupted again and again: what a checkpoint interval costs and saves, by formula and by simulation.

Failures come as a Poisson process. A run goes on from the newest checkpoint that was wholly written; writing goes on
beside training, so that a checkpoint costs a stall and protects only when it is done.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, expm1, sqrt
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Saving:
    """Seconds: of the stall for a checkpoint, until it is written after that, and from a failure to training again."""

    stall: float
    write: float
    restart: float


class Outcome(NamedTuple):
    """Means over simulated runs: failures, seconds of work done twice for each of them, useful work over time."""

    failures: float
    lost: float
    goodput: float


def young(stall: float, between: float) -> float:
    """The interval that loses least, to first order (Young 1974, doi:10.1145/361147.361115), in seconds.

    between: seconds from failure to failure.
    """
    return sqrt(2 * stall * between)


def daly(stall: float, between: float) -> float:
    """The same to a higher order (Daly 2006, doi:10.1016/j.future.2004.11.016, equation 37)."""
    if stall >= 2 * between:
        return between
    ratio = sqrt(stall / (2 * between))
    return young(stall, between) * (1 + ratio / 3 + ratio**2 / 9) - stall


def expected_goodput(interval: float, between: float, saving: Saving) -> float:
    """Useful work over time of a run without end: the simulation's mean, in closed form.

    Of the checkpoints that fit between two failures an exponential distribution keeps 1 / (exp(cycle / between) - 1).
    """
    cycle = cycle_of(interval, saving)
    kept = interval * exp(-saving.write / between) / expm1(cycle / between)
    return kept / (between + saving.restart)


def cycle_of(interval: float, saving: Saving) -> float:
    """Seconds from one checkpoint to the next: each waits for the one before to be written."""
    return max(interval, saving.write) + saving.stall


def simulate(
    work: float, interval: float, between: float, saving: Saving, *, runs: int, generator: np.random.Generator
) -> Outcome:
    """So many runs of `work` seconds of training, each with failures of its own, to their ends.

    interval: seconds of training between checkpoints. Failures while a run restarts are left out.
    """
    assert interval > 0
    cycle = cycle_of(interval, saving)
    safe, clock, lost, failures = (np.zeros(runs) for _ in range(4))
    going = np.ones(runs, bool)
    while going.any():
        lasts = generator.exponential(between, runs)
        left = work - safe
        needed = np.floor(left / interval) * cycle + left % interval
        ends = going & (lasts >= needed)
        clock[ends] += needed[ends]
        going &= ~ends
        trained = np.floor(lasts / cycle) * interval + np.minimum(lasts % cycle, interval)
        kept = np.maximum(0, np.floor((lasts - saving.write) / cycle)) * interval
        clock[going] += lasts[going] + saving.restart
        lost[going] += (trained - kept)[going]
        safe[going] += kept[going]
        failures[going] += 1
    count = failures.sum()
    return Outcome(float(failures.mean()), float(lost.sum() / count) if count else 0.0, float((work / clock).mean()))


def best_interval(
    work: float, between: float, saving: Saving, intervals: Sequence[float], *, runs: int, seed: int
) -> tuple[float, float]:
    """Of these intervals the one with the highest simulated goodput, and that; all meet the same luck."""
    found = {
        interval: simulate(work, interval, between, saving, runs=runs, generator=np.random.default_rng(seed)).goodput
        for interval in intervals
    }
    best = max(found, key=lambda interval: found[interval])
    return best, found[best]
