"""The views that training shows of each sample where their number is fixed, gone through in the order of the samples.

A stream with `fixed_views` shows the view of slot s of a sample in the epochs whose turn it is. Here every slot of
every sample is shown once: the same pixels, in rows that are computed together on any number of processes.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data_pipeline.augment import CropView
from data_pipeline.batch import Batch
from data_pipeline.filling import PooledFilling
from data_pipeline.manifest import sample_starts
from data_pipeline.order import Integers, Located, subset_hash
from data_pipeline.rows import Part, rows_of
from data_pipeline.substitutions import Substitutions


@dataclass(frozen=True)
class ViewFacts:
    """All that the pixels of fixed views depend on, as plain values; `data` is the split's fingerprint."""

    data: str
    split: str
    members: str
    view: str
    seed: int
    views: int


@dataclass(frozen=True)
class FixedViews:
    """So many (`views`) different views of each sample of a split that takes part.

    members: numbers of the samples that take part, None for all; withdrawn ones take none in any case. view, seed: as
    the stream has them.
    """

    part: Part
    members: Integers | None
    view: CropView
    seed: int
    views: int

    @cached_property
    def _samples(self) -> Integers | None:
        """Sorted numbers, each once; None for 0, 1, 2 and so on."""
        split = self.part.manifest.split(self.part.split)
        if self.members is None:
            return split.members() if split.withdrawn else None
        return np.setdiff1d(self.members, split.withdrawn)

    @property
    def samples(self) -> int:
        """How many samples take part."""
        split = self.part.manifest.split(self.part.split)
        return split.samples if self._samples is None else len(self._samples)

    @property
    def facts(self) -> ViewFacts:
        """What to compare where pixels must be the same."""
        shown = repr(self.view)
        assert " at 0x" not in shown, "a view whose text differs from process to process"
        members = "all" if self._samples is None else f"{len(self._samples)} of hash {subset_hash(self._samples)}"
        fingerprint = self.part.manifest.split(self.part.split).fingerprint
        return ViewFacts(fingerprint, self.part.split, members, shown, self.seed, self.views)

    def places(self, samples: Integers) -> Integers:
        """Of each sample number its place, from 0, among those that take part.

        Raises:
            ValueError: one takes none.
        """
        if self._samples is None:
            places, is_member = samples, (samples >= 0) & (samples < self.samples)
        else:
            places = np.searchsorted(self._samples, samples)
            is_member = self._samples[np.minimum(places, len(self._samples) - 1)] == samples
        if not is_member.all():
            raise ValueError(
                f"{self.part.manifest.folder} [{self.part.split}]: sample {samples[~is_member][0]} is none of the "
                f"{self.samples:,} of which views are known; expected the samples that training shows"
            )
        return places

    def batches(self, rows: int, *, first: int, rank: int, world: int, workers: int) -> Generator[Batch]:
        """From row `first` on, in pieces of `rows` rows, this rank's: piece c goes to rank c mod `world`.

        Row r shows view r // n of the sample of place r mod n, where n samples take part. The last piece is filled up
        with the first rows of all. `epochs` of a batch are the slots of the views, `positions` the numbers of its rows.

        Raises:
            DatasetError: as `RowFiller.fill`, and where too many samples do not decode. OSError: a store or a disk that
                does not answer.
        """
        split = self.part.manifest.split(self.part.split)
        starts, count = sample_starts(split), self.samples
        total = count * self.views

        def jobs() -> Iterator[tuple[np.ndarray, tuple[Integers, Located]]]:
            for piece in range(first // rows, -(-total // rows)):
                if piece % world != rank:
                    continue
                numbers = np.arange(piece * rows, (piece + 1) * rows, dtype=np.int64) % total
                slots, places = np.divmod(numbers, count)
                samples = places if self._samples is None else self._samples[places]
                located = Located(np.zeros_like(samples), samples, slots, np.zeros_like(samples))
                yield rows_of([starts], located), (numbers, located)

        met = Substitutions([split])
        filling = PooledFilling(
            [self.part], self.view, self.seed, plan=None, world=world, rows=rows, workers=workers, prefetch=3
        )
        try:
            for (numbers, located), views, labels, report in filling.batches(jobs()):
                met.add(report.substitutions)
                substitutions = tuple(report.substitutions)
                yield Batch(views, labels, numbers, located.dataset, located.sample, located.epoch, substitutions)
        finally:
            filling.close()
