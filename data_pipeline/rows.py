"""Filling the rows of a batch: read, decode, write pixels and labels where they belong."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.arrays import DecodeError, Pixels
from data_pipeline.augment import Crop, CropView, Views, WholeView, check_policies, groups_of
from data_pipeline.decoded import Decoded
from data_pipeline.manifest import DatasetError, Manifest, locate_sample
from data_pipeline.order import Located
from data_pipeline.randomness import Draws, Purpose
from data_pipeline.reading import Access
from data_pipeline.ring import DECODE, READ, STAGES, START, WAIT, Doing, Layout, Note
from data_pipeline.view_pixels import Size, ViewDecoder, jpeg_scale

# What a worker must know of a row of a batch; `alone`: rather read just this sample than wait for its block.
ROW_DTYPE = np.dtype(
    [
        ("row", "<i8"),
        ("dataset", "<i8"),
        ("shard", "<i8"),
        ("index", "<i8"),
        ("sample", "<i8"),
        ("epoch", "<i8"),
        ("view", "<i8"),
        ("alone", "<i8"),
    ]
)


def rows_of(starts: Sequence[NDArray[np.int64]], located: Located) -> np.ndarray:
    """Rows (dtype `ROW_DTYPE`) for located samples; `starts` as `sample_starts` gives them, for each dataset."""
    rows = np.zeros(len(located.sample), ROW_DTYPE)
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
    """What filling rows took: seconds by stage, summed over processes, and what was out of the ordinary.

    bytes: read. fill_seconds: in all, of which the stages leave some out. by_pillow: images that libjpeg-turbo does not
    decode. from_memory: images decoded before; on_device: those of them whose views a device makes.
    Of the process that uses the batches: `order_seconds` to know which samples come next, `wait_seconds` for rows that
    were not filled yet, `collate_seconds` to copy them out of the ring, `consumer_seconds` between two batches.
    """

    rows: int = 0
    bytes: int = 0
    fill_seconds: float = 0.0
    read_seconds: float = 0.0
    decode_seconds: float = 0.0
    resize_seconds: float = 0.0
    augment_seconds: float = 0.0
    write_seconds: float = 0.0
    order_seconds: float = 0.0
    wait_seconds: float = 0.0
    collate_seconds: float = 0.0
    consumer_seconds: float = 0.0
    by_pillow: int = 0
    from_memory: int = 0
    on_device: int = 0
    substitutions: list[Substitution] = field(default_factory=list)

    def add(self, other: "FillReport") -> None:
        """Add another's sums to these."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def layout_of(parts: Sequence[Part], views: Views, rows: int) -> Layout:
    """What a slot for batches of `rows` samples of these parts holds.

    Raises:
        ValueError: parts whose pixels differ in channels or type, or a policy or view that cannot change such pixels.
    """
    splits = [part.manifest.split(part.split) for part in parts]
    first = splits[0]
    for part, split in zip(parts, splits, strict=True):
        if (split.channels, split.dtype) != (first.channels, first.dtype):
            raise ValueError(
                f"{_named(parts[0])} has {first.channels} channels of {first.dtype}, {_named(part)} has "
                f"{split.channels} of {split.dtype}: the parts of a mixture must agree; write one of them again"
            )
    check_policies(views, first.channels, first.dtype)
    groups = tuple((copies, *view.size) for view, copies in groups_of(views))
    return Layout(rows, groups, first.channels, first.dtype)


def _named(part: Part) -> str:
    return f"{part.manifest.folder} [{part.split}]"


def describe(parts: Sequence[Part], doing: Doing) -> str:
    """What a worker is busy with, for messages."""
    if doing.stage == START:
        return "starting"
    if doing.stage == WAIT:
        return "taking up what was asked of it"
    part = parts[doing.dataset]
    shard = f"shard {part.manifest.split(part.split).shards[doing.shard].file}"
    where = f"{shard} of {part.manifest.folder}" if len(parts) > 1 else shard
    return f"with sample {doing.index} of {where}, stage {STAGES[doing.stage]}"


class RowFiller:
    """Fills rows of a slot of the ring. One for each process; picklable before its first use.

    `decoded`: images that are in memory already.
    """

    def __init__(
        self, parts: Sequence[Part], views: Views, seed: int, access: Access, decoded: Decoded | None = None
    ) -> None:
        self._readers = access.readers(parts)
        self._splits = [part.manifest.split(part.split) for part in parts]
        self._keys = [int(split.fingerprint[:16], 16) for split in self._splits]
        self._channels, self._dtype = self._splits[0].channels, np.dtype(self._splits[0].dtype)
        self._withdrawn = [frozenset(split.withdrawn) for split in self._splits]
        groups = groups_of(views)
        self._whole = views if isinstance(views, WholeView) else None
        self._views = [view for view, copies in groups for _ in range(copies) if isinstance(view, CropView)]
        self._places = [(group, copy) for group, (_, copies) in enumerate(groups) for copy in range(copies)]
        self._seed = seed
        self._decoded = decoded
        self._decoder: ViewDecoder | None = None

    def fill(
        self, rows: np.ndarray, views: Sequence[NDArray[Any]], labels: NDArray[np.int64], note: Note
    ) -> FillReport:
        """Write the samples that `rows` (dtype `ROW_DTYPE`) name.

        Args:
            rows: which samples, and in which row each is shown.
            views: for each group of views (rows, copies, height, width, channels).
            labels: (rows,).
            note: is told what each sample's next stage is, before it begins.

        Raises:
            DatasetError: bytes are absent or altered, or no sample of a shard decodes.
            OSError: a store or a disk that does not answer.
        """
        start, report = perf_counter(), FillReport(rows=len(rows))
        decoder = self._decoder = self._decoder or ViewDecoder()
        decoder.decode_seconds, decoder.resize_seconds, decoder.by_pillow = 0.0, 0.0, 0
        for row, dataset, shard, index, sample, epoch, view, alone in rows.tolist():
            words = (self._seed, self._keys[dataset], epoch, sample, view, Purpose.PIXELS)
            place = _Place(dataset, shard, index, sample)
            try:
                shown, labels[row] = self._sample(place, words, report, note, alone=bool(alone))
            except DecodeError as error:
                replacement, shown, labels[row] = self._next(place, words, report, note)
                report.substitutions.append(Substitution(dataset, sample, replacement, str(error)))
            begin = perf_counter()
            for number, (group, copy) in enumerate(self._places):
                views[group][row, copy] = shown[number]
            report.write_seconds += perf_counter() - begin
        report.decode_seconds, report.resize_seconds = decoder.decode_seconds, decoder.resize_seconds
        report.by_pillow = decoder.by_pillow
        report.fill_seconds = perf_counter() - start
        return report

    def _sample(
        self, place: "_Place", words: tuple[int, ...], report: FillReport, note: Note, *, alone: bool = False
    ) -> tuple[list[Pixels], int]:
        """The views and the label of a sample."""
        assert self._decoder is not None
        dataset, shard, index, sample = place
        begin = perf_counter()
        if self._decoded is not None and (held := self._decoded.image(dataset, sample)) is not None:
            note(DECODE, dataset, shard, index, begin)
            pixels, label = held
            draws, wanted = self._draw(words, pixels.shape[1], pixels.shape[0])
            if min(jpeg_scale(crop, size) for crop, size in wanted) == 1:
                report.augment_seconds += perf_counter() - begin
                report.from_memory += 1
                return self._finish(draws, self._decoder.views_of(pixels, wanted), report), label
        note(READ, dataset, shard, index, begin)
        data, entry = self._readers[dataset].image(shard, index, alone)
        middle = perf_counter()
        note(DECODE, dataset, shard, index, middle)
        width, height, orientation = int(entry["width"]), int(entry["height"]), int(entry["orientation"])
        report.bytes += len(data)
        report.read_seconds += middle - begin
        if self._whole is not None:
            pixels = self._decoder.whole(data, (width, height), orientation)
            self._check(pixels)
            begin = perf_counter()
            shown = [self._whole.prepare(pixels)]
            self._decoder.resize_seconds += perf_counter() - begin
            return shown, int(entry["label"])
        draws, wanted = self._draw(words, width, height)
        report.augment_seconds += perf_counter() - middle
        shown = self._decoder.views(data, (width, height), orientation, wanted)
        self._check(shown[0])
        return self._finish(draws, shown, report), int(entry["label"])

    def _draw(self, words: tuple[int, ...], width: int, height: int) -> tuple[list[Draws], list[tuple[Crop, Size]]]:
        """For each view its random numbers and its crop of an image of that width and height."""
        # The first copy draws as a single view does.
        draws = [Draws(*words, copy) if copy else Draws(*words) for copy in range(len(self._views))]
        pairs = zip(draws, self._views, strict=True)
        return draws, [(view.draw(own, width, height), view.size) for own, view in pairs]

    def _finish(self, draws: list[Draws], shown: list[Pixels], report: FillReport) -> list[Pixels]:
        begin = perf_counter()
        finished = [view.finish(own, one) for view, own, one in zip(self._views, draws, shown, strict=True)]
        report.augment_seconds += perf_counter() - begin
        return finished

    def _check(self, pixels: Pixels) -> None:
        """Other pixels than the manifest promises would be stretched into the row without a word."""
        if pixels.shape[2] != self._channels or pixels.dtype != self._dtype:
            raise DecodeError(
                f"{pixels.shape[2]} channels of {pixels.dtype}, the manifest says {self._channels} of {self._dtype}"
            )

    def _next(
        self, place: "_Place", words: tuple[int, ...], report: FillReport, note: Note
    ) -> tuple[int, list[Pixels], int]:
        """Which sample of the shard is the next that takes part and decodes, and what it shows.

        It is the same one on every rank and after every resume. After the shard's last sample comes its first.
        """
        dataset, shard, index, sample = place
        described = self._splits[dataset].shards[shard]
        for other in (*range(index + 1, described.samples), *range(index)):
            number = sample - index + other
            if number in self._withdrawn[dataset]:
                continue
            with suppress(DecodeError):
                return number, *self._sample(_Place(dataset, shard, other, number), words, report, note)
        raise DatasetError(f"shard {described.file}: none of its {described.samples} samples decodes, stage decode")


class _Place(NamedTuple):
    """Where a sample lies, and its number within the split."""

    dataset: int
    shard: int
    index: int
    sample: int
