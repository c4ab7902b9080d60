"""Filling the rows of a batch: read, decode, write pixels and labels where they belong."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.augment import View
from data_pipeline.decode import DecodeError, Pixels, sniff
from data_pipeline.manifest import DatasetError, Manifest, locate_sample
from data_pipeline.order import Located
from data_pipeline.randomness import Draws, Purpose
from data_pipeline.storage import ShardReader
from data_pipeline.view_pixels import decode_view

# What a worker must know of a row of a batch.
ROW_DTYPE = np.dtype(
    [
        ("row", "<i8"),
        ("dataset", "<i8"),
        ("shard", "<i8"),
        ("index", "<i8"),
        ("sample", "<i8"),
        ("epoch", "<i8"),
        ("view", "<i8"),
    ]
)


def rows_of(starts: Sequence[NDArray[np.int64]], located: Located) -> np.ndarray:
    """Rows (dtype `ROW_DTYPE`) for located samples; `starts` as `sample_starts` gives them, for each dataset."""
    rows = np.empty(len(located.sample), ROW_DTYPE)
    rows["row"] = np.arange(len(rows))
    rows["dataset"], rows["sample"], rows["epoch"], rows["view"] = located
    for dataset, shard_starts in enumerate(starts):
        chosen = located.dataset == dataset
        rows["shard"][chosen], rows["index"][chosen] = locate_sample(shard_starts, located.sample[chosen])
    return rows


class Part(NamedTuple):
    """One split of one dataset folder, as a stream reads it."""

    manifest: Manifest
    split: str


class Substitution(NamedTuple):
    """A sample whose bytes are intact and yet do not decode, and the one shown instead (numbers within the split)."""

    dataset: int
    sample: int
    replacement: int
    reason: str


@dataclass
class FillReport:
    """What filling rows took: seconds by stage summed over processes, and what was out of the ordinary."""

    rows: int = 0
    bytes: int = 0
    read_seconds: float = 0.0
    decode_seconds: float = 0.0
    not_jpeg: int = 0
    substitutions: list[Substitution] = field(default_factory=list)

    def add(self, other: "FillReport") -> None:
        """Add another's sums to these."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class RowFiller:
    """Fills rows of uint8 images (rows, height, width, 3) and int64 labels (rows,). One for each process."""

    def __init__(self, parts: Sequence[Part], view: View, seed: int) -> None:
        self._readers = [ShardReader(part.manifest, part.manifest.split(part.split)) for part in parts]
        self._splits = [part.manifest.split(part.split) for part in parts]
        self._keys = [int(split.fingerprint[:16], 16) for split in self._splits]
        self._view = view
        self._seed = seed

    def fill(self, rows: np.ndarray, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> FillReport:
        """Write the samples that `rows` (dtype `ROW_DTYPE`) name.

        Raises:
            DatasetError: bytes are absent or altered, or no sample of a shard decodes.
        """
        report = FillReport(rows=len(rows))
        for row, dataset, shard, index, sample, epoch, view in rows.tolist():
            words = (self._seed, self._keys[dataset], epoch, sample, view, Purpose.PIXELS)
            try:
                images[row], labels[row] = self._sample(dataset, shard, index, words, report)
            except DecodeError as error:
                replacement = self._replace(dataset, shard, index, words, report)
                images[row], labels[row], other = replacement
                report.substitutions.append(Substitution(dataset, sample, sample - index + other, str(error)))
        return report

    def _sample(
        self, dataset: int, shard: int, index: int, words: tuple[int, ...], report: FillReport
    ) -> tuple[Pixels, int]:
        begin = time.perf_counter()
        data, entry = self._readers[dataset].image(shard, index)
        middle = time.perf_counter()
        width, height = int(entry["width"]), int(entry["height"])
        draws = Draws(*words)
        crop = self._view.draw(draws, width, height)
        pixels = decode_view(data, (width, height), int(entry["orientation"]), crop, self._view.size)
        pixels = self._view.finish(draws, pixels)
        report.bytes += len(data)
        report.read_seconds += middle - begin
        report.decode_seconds += time.perf_counter() - middle
        report.not_jpeg += sniff(data) != "jpg"
        return pixels, int(entry["label"])

    def _replace(
        self, dataset: int, shard: int, index: int, words: tuple[int, ...], report: FillReport
    ) -> tuple[Pixels, int, int]:
        """The next sample of the shard that decodes: the same one on every rank and after every resume."""
        described = self._splits[dataset].shards[shard]
        for step in range(1, described.samples):
            other = (index + step) % described.samples
            try:
                return *self._sample(dataset, shard, other, words, report), other
            except DecodeError:
                continue
        raise DatasetError(f"shard {described.file}: none of its {described.samples} samples decodes, stage decode")
