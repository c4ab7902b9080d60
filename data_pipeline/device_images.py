"""All images of a small dataset on one device, where whole batches of views are made of them at once.

The views are to the bit those that workers make of the same samples one by one, whatever the device is.
"""

import os
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.arrays import Pixels
from data_pipeline.augment import Crop, View, Views, groups_of
from data_pipeline.crop_boxes import check_view, draw_boxes
from data_pipeline.decode import Box
from data_pipeline.free_memory import free_memory
from data_pipeline.manifest import DatasetError
from data_pipeline.randomness import hash_array
from data_pipeline.resampling import CropResizer, Size, table_bytes
from data_pipeline.view_pixels import jpeg_scale, view_of

_Integers = NDArray[np.int64]

_MOST_SHARE = {"cpu": 0.6}  # of the memory that is free
_MOST_SHARE_ELSEWHERE = 0.8
_BYTES_AT_A_TIME = 64 << 20  # of images on their way to the device
_TRIAL_LONGEST = 256  # pixels of a side
_TRIAL_CROPS = 32


def bytes_needed(sizes: _Integers, channels: int) -> int:
    """What n images of these sizes, (n, 2), height and width, take on a device, padded to the largest of each."""
    height, width = _longest(sizes)
    return len(sizes) * height * width * channels


def check_images(
    sizes: _Integers, channels: int, dtype: str, views: Views, device: torch.device, *, has_jpeg: bool
) -> None:
    """Refuse what `DeviceImages` cannot show as workers do, or what does not fit, before anything is decoded.

    Args:
        sizes: (n, 2), height and width of the upright images in pixels.
        channels, dtype: of their pixels.
        has_jpeg: whether some are JPEGs, which workers decode at a fraction of their size where that serves the view.

    Raises:
        ValueError: with what to do instead.
    """
    assert sizes.dtype == np.int64
    if dtype != "uint8":
        raise ValueError(f"--cache device: resizes uint8, these images are {dtype}; use --cache memory")
    for view, _ in groups_of(views):
        check_view(view)
    shown = [view.size for view, _ in groups_of(views)]
    if has_jpeg:
        _check_scales(sizes, shown)
    _check_memory(sizes, channels, shown, device)


class DeviceImages:
    """n upright images of uint8, padded to the largest height and width, on a device.

    Args:
        images: pixels (height, width, channels) of each image, in the order of `sizes`.
        sizes, channels, device, has_jpeg: as `check_images` takes them.
        views: all views that will be asked for.

    Raises:
        ValueError: as `check_images`, or torch resizes by another rule than this.
        DatasetError: an image has another size, other channels or another type than was said.
    """

    def __init__(
        self,
        images: Iterable[Pixels],
        sizes: _Integers,
        channels: int,
        views: Views,
        device: torch.device,
        *,
        has_jpeg: bool,
    ) -> None:
        check_images(sizes, channels, "uint8", views, device, has_jpeg=has_jpeg)
        longest = _longest(sizes)
        self._sizes = sizes
        self._resizers = {view.size: CropResizer(longest, view.size, device) for view, _ in groups_of(views)}
        for size, resizer in self._resizers.items():
            _check_rule(resizer, longest, size, channels, device)
        self._columns = torch.zeros((len(sizes), longest[1], channels, longest[0]), dtype=torch.uint8, device=device)
        self._fill(images)

    def __len__(self) -> int:
        return len(self._sizes)

    def views(self, view: View, samples: _Integers, keys: NDArray[np.uint64]) -> Tensor:
        """One view of each of b images.

        Args:
            view: one of those that this object was made for.
            samples: (b,), numbers of images.
            keys: (b,), of the draws of each, as `crop_boxes.keys_of` gives them.

        Returns uint8, (b, height, width, channels), on the device.
        """
        heights, widths = self._sizes[samples].T
        return self._resizers[view.size].resize(self._columns, samples, draw_boxes(view, keys, widths, heights))

    def _fill(self, images: Iterable[Pixels]) -> None:
        count, width, channels, height = self._columns.shape
        room = max(1, min(count, _BYTES_AT_A_TIME // (width * channels * height)))
        piece = torch.zeros((room, height, width, channels), dtype=torch.uint8, pin_memory=self._columns.is_cuda)
        values = piece.numpy()
        begin = end = 0
        for end, pixels in enumerate(images, 1):
            assert end <= count
            expected = (*self._sizes[end - 1].tolist(), channels)
            if (pixels.shape, pixels.dtype) != (expected, np.uint8):
                raise DatasetError(
                    f"image {end - 1:,} has pixels of shape {pixels.shape} and {pixels.dtype}, its index says "
                    f"{expected} of uint8; verify the dataset: data_pipeline/survey.py verify"
                )
            values[end - 1 - begin, : expected[0], : expected[1]] = pixels
            if end - begin == room or end == count:
                moved = piece[: end - begin].to(self._columns.device)
                self._columns[begin:end].copy_(moved.permute(0, 2, 3, 1))
                begin = end
        assert end == count


def _longest(sizes: _Integers) -> Size:
    """The largest height and the largest width."""
    height, width = sizes.max(0).tolist()
    return height, width


def _check_scales(sizes: _Integers, shown: Sequence[Size]) -> None:
    """Refuse images of which some crop may be decoded at a fraction of the size: other pixels than are held here."""
    for packed in np.unique(sizes[:, 0] << 32 | sizes[:, 1]).tolist():
        height, width = packed >> 32, packed & 0xFFFFFFFF
        scale = min(jpeg_scale(Crop(0, 0, width, height, mirrored=False), size) for size in shown)
        if scale > 1:
            raise ValueError(
                f"--cache device: holds images decoded in full, but of a JPEG of {width} x {height} pixels views of "
                f"{_named(shown)} are decoded at up to 1/{scale} of its size, which gives other pixels; "
                "use --cache memory, or a dataset of smaller images"
            )


def _named(sizes: Sequence[Size]) -> str:
    return " and ".join(f"{width} x {height}" for height, width in sizes)


def _check_memory(sizes: _Integers, channels: int, shown: Sequence[Size], device: torch.device) -> None:
    free = _free_bytes(device)
    if free is None:
        return
    longest = _longest(sizes)
    # Ranks on a CPU share its memory; those on other devices have one each.
    holders = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device.type == "cpu" else 1
    needed = holders * (bytes_needed(sizes, channels) + sum(table_bytes(longest, size) for size in set(shown)))
    share = _MOST_SHARE.get(device.type, _MOST_SHARE_ELSEWHERE)
    if needed > free * share:
        times = f" in {holders} processes" if holders > 1 else ""
        raise ValueError(
            f"--cache device: {len(sizes):,} images padded to {longest[1]} x {longest[0]} pixels take "
            f"{needed / 1e9:.1f} GB{times} on {device}, where {free / 1e9:.1f} GB are free, of which {share:.0%} may "
            "be taken; use --cache memory, which pads nothing, or --cache none"
        )


def _free_bytes(device: torch.device) -> int | None:
    """The memory that is free on a device; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu":
        return free_memory()
    return None


def _check_rule(resizer: CropResizer, longest: Size, size: Size, channels: int, device: torch.device) -> None:
    """Compare crops of noise with what workers make of them: another torch, or device, might do it otherwise."""
    height, width = (min(side, _TRIAL_LONGEST) for side in longest)
    bits = hash_array(0, np.arange(height * width * channels, dtype=np.uint64))
    noise = (bits >> np.uint64(56)).astype(np.uint8).reshape(height, width, channels)
    numbers = hash_array(1, np.arange(4 * _TRIAL_CROPS, dtype=np.uint64)).reshape(4, -1)
    sides = np.asarray([[width], [height]], np.uint64)
    lengths = 1 + numbers[:2] % sides
    begins = numbers[2:] % (sides - lengths + np.uint64(1))
    mirrored = np.arange(_TRIAL_CROPS) % 2
    boxes = np.column_stack([*begins.astype(np.int64), *lengths.astype(np.int64), mirrored])
    columns = torch.from_numpy(noise.transpose(1, 2, 0)[None].copy()).to(device)
    found = resizer.resize(columns, np.zeros_like(mirrored), boxes).cpu().numpy()
    expected = [view_of(noise, Box(*box), size, bool(turned)) for *box, turned in boxes.tolist()]
    if not np.array_equal(found, np.stack(expected)):
        raise ValueError(
            f"--cache device: views made on {device} are not those that torch {torch.__version__} makes on this CPU, "
            "so that they would depend on the cache; use --cache memory, and report this"
        )
