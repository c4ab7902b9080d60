"""Batches made on a device from images that are kept there: for small datasets, as fast as the device is."""

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from data_pipeline.arrays import Pixels
from data_pipeline.augment import Views, groups_of
from data_pipeline.crop_boxes import check_view, keys_of
from data_pipeline.decoded import Decoded
from data_pipeline.device_images import DeviceImages
from data_pipeline.filling import DecodeOnce, Filled, Jobs, Tag
from data_pipeline.manifest import Split, locate_sample, sample_starts
from data_pipeline.order import Integers
from data_pipeline.randomness import Purpose
from data_pipeline.reading import Reading
from data_pipeline.rows import FillReport, Part

_WORDS = ("epoch", "sample", "view")
_ALL_BITS = 0xFFFFFFFFFFFFFFFF


class DeviceFilling:
    """Views of images that a device holds, the same to the bit as workers make.

    Args:
        parts, views, seed: as of the stream.
        decode_once: decodes everything, given what makes readers, and `told`.
        device: that holds the images and the batches.
        members: for each part the sorted numbers of its samples that take part, None for all.
        told: of what is decoded.

    Raises:
        ValueError: images that do not fit, that do not decode, or whose views have to be decoded at another scale.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        views: Views,
        seed: int,
        decode_once: DecodeOnce,
        *,
        device: torch.device | str,
        members: Sequence[Integers | None],
        told: Callable[[str], None],
    ) -> None:
        splits = [part.manifest.split(part.split) for part in parts]
        self._groups = groups_of(views)
        for view, _ in self._groups:
            check_view(view)  # before everything is decoded
        self._keys = [(seed, int(split.fingerprint[:16], 16)) for split in splits]
        reading = Reading(parts, None, 1)
        try:
            decoded = decode_once(lambda: reading.access.readers(parts), say=told)
        finally:
            reading.close()
        self._rows, held = [], []
        for dataset, (split, chosen) in enumerate(zip(splits, members, strict=True)):
            samples = _all_held(decoded, dataset, split, chosen)
            rows = np.full(split.samples, -1, np.int64)
            rows[samples] = len(held) + np.arange(len(samples))
            self._rows.append(rows)
            held += [(dataset, sample) for sample in samples.tolist()]
        shown = [_image(decoded, place) for place in held]
        self._labels = torch.tensor([label for _, label in shown], dtype=torch.int64)
        self._images: DeviceImages | None = DeviceImages(
            (pixels for pixels, _ in shown),
            np.asarray([pixels.shape[:2] for pixels, _ in shown], np.int64),
            decoded.channels,
            views,
            torch.device(device),
            has_jpeg=any(split.extension != "npy" for split in splits),
        )

    def batches(self, jobs: Jobs[Tag]) -> Filled[Tag]:
        """Fill jobs in their order, each when it is asked for: a device works on while this process goes ahead."""
        consumer_seconds = 0.0
        while True:
            begin = perf_counter()
            job = next(jobs, None)
            if job is None:
                return
            rows, tag = job
            middle = perf_counter()
            views, labels = self._views(rows)
            end = perf_counter()
            report = FillReport(rows=len(rows), from_memory=len(rows), on_device=len(rows))
            report.order_seconds, report.consumer_seconds = middle - begin, consumer_seconds
            report.resize_seconds = report.wait_seconds = end - middle
            yield tag, views, labels, report
            consumer_seconds = perf_counter() - end

    def busy(self) -> str:
        """What this process is busy with."""
        return "this process makes views on the device"

    def close(self) -> None:
        """Let go of the images."""
        self._images = None

    def _views(self, rows: np.ndarray) -> tuple[tuple[Tensor, ...], Tensor]:
        assert self._images is not None
        places = np.empty(len(rows), np.int64)
        words = np.empty((len(rows), 6), np.uint64)
        words[:, 2], words[:, 3], words[:, 4], words[:, 5] = *(rows[name] for name in _WORDS), Purpose.PIXELS
        for dataset, (own, (seed, fingerprint)) in enumerate(zip(self._rows, self._keys, strict=True)):
            chosen = rows["dataset"] == dataset
            places[chosen] = own[rows["sample"][chosen]]
            words[chosen, 0], words[chosen, 1] = np.uint64(seed & _ALL_BITS), np.uint64(fingerprint)
        shown, copy = [], 0
        for view, copies in self._groups:
            several = []
            for _ in range(copies):
                # The first copy draws as a single view does.
                own = words if copy == 0 else np.column_stack([words, np.full(len(rows), copy, np.uint64)])
                several.append(self._images.views(view, places, keys_of(own)))
                copy += 1
            shown.append(torch.stack(several, 1) if copies > 1 else several[0][:, None])
        return tuple(shown), self._labels[torch.from_numpy(places)]


def _all_held(decoded: Decoded, dataset: int, split: Split, chosen: Integers | None) -> Integers:
    """The samples that take part, all of which must be in memory."""
    samples = split.members() if chosen is None else np.setdiff1d(chosen, split.withdrawn)
    absent = samples[decoded.table(dataset)["offset"][samples] < 0]
    if len(absent):
        shard, row = locate_sample(sample_starts(split), absent[:1])
        raise ValueError(
            f"shard {split.shards[shard[0]].file}: sample {row[0]} does not decode ({len(absent):,} like it), and "
            "--cache device has no way to show another one in its place; use --cache memory, or write the dataset "
            "again, which leaves such images out"
        )
    return samples


def _image(decoded: Decoded, place: tuple[int, int]) -> tuple[Pixels, int]:
    image = decoded.image(*place)
    assert image is not None
    return image
