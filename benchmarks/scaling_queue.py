"""The loader's ring as a queue: how often a step waits for images that take unequal times, on any of many ranks.

As data_pipeline/workers.py and filling.py do it: a batch's rows are cut into tasks, a task goes to the worker that is
free first, a slot is filled again as soon as its batch was taken, and a batch is taken while the step before runs. All
ranks begin a step together, when the last of them has its batch.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FEWEST_ROWS = 8
MOST_ROWS = 64
TASKS_A_WORKER = 4
"""What data_pipeline/workers.py cuts tasks by."""
SLOTS = 4
"""Of the ring: the default `prefetch` of a stream, and one that is being used."""


@dataclass(frozen=True)
class Loader:
    """`rows` images a step on each of `ranks` ranks, by `workers` processes each; a step takes `step_seconds`.

    slowness: how many times as long the first rank's workers take.
    """

    ranks: int
    rows: int
    workers: int
    step_seconds: float
    slots: int = SLOTS
    slowness: float = 1.0


class Waiting(NamedTuple):
    """Shares: of steps that wait for more than a hundredth of a step, and of the time that is waiting."""

    steps: float
    time: float


def task_rows(rows: int, workers: int) -> int:
    """Rows of a task."""
    return min(MOST_ROWS, max(FEWEST_ROWS, -(-rows // (TASKS_A_WORKER * workers))))


def simulate(
    loader: Loader, image_seconds: NDArray[np.float64], *, steps: int, generator: np.random.Generator
) -> Waiting:
    """Of so many steps, after a tenth as many that only fill the ring.

    image_seconds: of a worker, for images of which each is as frequent as any other.
    """
    size = task_rows(loader.rows, loader.workers)
    starts = np.arange(0, loader.rows, size)
    everyone = np.arange(loader.ranks)
    pace = np.where(everyone == 0, loader.slowness, 1.0)
    free = np.zeros((loader.ranks, loader.workers))
    taken = [np.zeros(loader.ranks)] * loader.slots  # when each of the batches before was taken: the slots were free
    begin = end = 0.0
    late, waited, first, since = 0, 0.0, steps // 10, 0.0
    for number in range(first + steps):
        seconds = generator.choice(image_seconds, (loader.ranks, loader.rows)) * pace[:, None]
        submitted, ready = taken.pop(0), np.zeros(loader.ranks)
        for task in np.add.reduceat(seconds, starts, axis=1).T:
            worker = free.argmin(axis=1)
            done = np.maximum(free[everyone, worker], submitted) + task
            free[everyone, worker] = done
            ready = np.maximum(ready, done)
        arrived = np.maximum(ready, begin)
        taken.append(arrived)
        begin = max(end, float(arrived.max()))
        if number == first:
            since = end
        if number >= first:
            late += begin - end > loader.step_seconds / 100
            waited += begin - end
        end = begin + loader.step_seconds
    return Waiting(late / steps, waited / (end - since))


def fewest_workers(
    loader: Loader, image_seconds: NDArray[np.float64], *, steps: int, seed: int, share: float = 0.01
) -> int:
    """Workers with which at most a share of the time is waiting; `loader.workers` is not looked at."""
    least = max(1, int(loader.rows * image_seconds.mean() / loader.step_seconds))
    for workers in range(least, least + 200):
        generator = np.random.default_rng(seed)
        if simulate(replace(loader, workers=workers), image_seconds, steps=steps, generator=generator).time <= share:
            return workers
    raise ValueError(f"{loader}: no number of workers up to {least + 199} keeps up; a step is too short for its images")
