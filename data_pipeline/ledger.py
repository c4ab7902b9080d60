"""Counts of how often each sample of a dataset was due and was skipped, checked at the end of each epoch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_pipeline.order import Integers, Mixture
from data_pipeline.recorded_run import Ingredient

_AT_ONCE = 1 << 20


@dataclass
class Ledger:
    """Counts of one dataset: times that each sample was due, all epochs and the one being counted, and was skipped.

    `expected`: times that it should be due in an epoch, once a view for each of its places.
    """

    part: Ingredient
    views: int
    epoch: int = 0
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        split = self.part.manifest.split(self.part.split)
        self.expected = np.full(split.samples, self.views, np.uint32)
        if self.part.members is not None:
            self.expected[:] = 0
            _count(self.expected, self.part.members)
            self.expected *= self.views
        self.expected[list(split.withdrawn)] = 0
        self.due = np.zeros(split.samples, np.uint32)
        self.skipped = np.zeros(split.samples, np.uint32)
        self.this_epoch = np.zeros(split.samples, np.uint32)

    def add(self, epochs: Integers, samples: Integers, is_skipped: NDArray[np.bool_]) -> None:
        """The next positions of this dataset, in order: the epoch and the sample of each."""
        for epoch in np.unique(epochs).tolist():
            while self.epoch < epoch:
                self.end_epoch()
            _count(self.this_epoch, samples[epochs == epoch])
        _count(self.skipped, samples[is_skipped])

    def end_epoch(self) -> None:
        """The epoch is whole: each sample must have come as often as is expected of it."""
        self._note(np.flatnonzero(self.this_epoch != self.expected))
        self.epoch += 1

    def end(self, partial: int) -> None:
        """No more positions come; so many of the epoch begun have."""
        wrong = np.flatnonzero(self.this_epoch > self.expected)
        if not len(wrong) and int(self.this_epoch.sum()) != partial:
            self.faults.append(f"epoch {self.epoch}: {int(self.this_epoch.sum()):,} positions, expected {partial:,}")
        self._note(wrong)

    def _note(self, wrong: Integers) -> None:
        if len(wrong):
            first = int(wrong[0])
            self.faults.append(
                f"epoch {self.epoch}: {len(wrong):,} samples were not due as often as they should be; the first, "
                f"sample {first}, {int(self.this_epoch[first])} times, expected {int(self.expected[first])}"
            )
        self.due += self.this_epoch
        self.this_epoch[:] = 0


def count_positions(
    mixture: Mixture,
    ledgers: Sequence[Ledger],
    end: int,
    skipped: Sequence[tuple[int, int]],
    report: Callable[[int], None],
    *,
    at_once: int = _AT_ONCE,
) -> None:
    """Enter the run positions from 0 to before `end` into the ledgers, `at_once` of them at a time."""
    for start in range(0, end, at_once):
        positions = np.arange(start, min(start + at_once, end), dtype=np.int64)
        is_skipped = np.zeros(len(positions), np.bool_)
        for first, stop in skipped:
            is_skipped[max(0, first - start) : max(0, stop - start)] = True
        located = mixture.locate(positions)
        for number, ledger in enumerate(ledgers):
            chosen = located.dataset == number
            ledger.add(located.epoch[chosen], located.sample[chosen], is_skipped[chosen])
        report(len(positions))


def _count(counts: NDArray[np.uint32], samples: Integers) -> None:
    """Add one for each time that a sample stands in the list."""
    if len(samples) * 4 > len(counts):
        counts += np.bincount(samples, minlength=len(counts)).astype(np.uint32)
    else:
        numbers, times = np.unique(samples, return_counts=True)
        counts[numbers] += times.astype(np.uint32)
