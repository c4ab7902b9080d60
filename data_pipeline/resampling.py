"""Crops of many images resized in one go, on any device, to the very bits of torch's antialiased bicubic on a CPU.

The rule is that of `interpolate(mode="bicubic", antialias=True)` for uint8: each axis has a table of integer weights;
rows are filtered first, rounded and clipped to uint8, then columns. Torch's code paths (AVX2 for up to four channels,
NEON for three, the portable one for the rest) agree to the bit, and so does this: sums of integers are exact in any
order, on any device, as those of floats are not. On GPUs torch itself has no such filter.

Images are held as columns, (images, width, channels, height): the first pass adds up whole columns, which lie in one
piece, and one transposition makes of its result rows for the second.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Size = tuple[int, int]
"""Height and width in pixels."""

_Integers = NDArray[np.int64]

_BITS = 22  # of a weight, behind the binary point: the most that torch takes
_HALF = 1 << (_BITS - 1)
_BYTES_AT_A_TIME = 64 << 20  # of intermediate results
_BYTES_A_THREAD = 8 << 20  # the same on a CPU, for each of its threads: what their caches hold


def filter_weights(length: int, size: int) -> tuple[_Integers, NDArray[np.int32]]:
    """How `length` pixels in a line become `size`: each output's first source pixel, (size,), and its weights.

    Weights are (size, taps), in units of 2^-22, zero behind the end of an output's window. Torch rounds them to 16
    bits, at a precision that the largest weight of the line decides; here they are then multiplied by the power of two
    that gives all lines the same precision, which changes no result.
    """
    scale = length / size
    stretch = max(1.0, scale)
    support = 2 * stretch
    centers = scale * (np.arange(size) + 0.5)
    first = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    counts = np.minimum((centers + support + 0.5).astype(np.int64), length) - first
    counts = np.minimum(counts, 2 * math.ceil(support) + 1)
    taps = np.arange(counts.max())
    weights = _bicubic(np.abs((taps + first[:, None] - centers[:, None] + 0.5) * (1 / stretch)))
    weights[taps >= counts[:, None]] = 0
    weights /= weights.sum(1, keepdims=True)
    precision = 0
    while precision < _BITS and int(0.5 + weights.max() * 2 ** (precision + 1)) < 2**15:
        precision += 1
    scaled = weights * 2**precision
    rounded = np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int64) << (_BITS - precision)
    assert 255 * np.abs(rounded).sum(1).max() + _HALF < 2**31  # so no sum, in any order, leaves 32 bits
    return first, rounded.astype(np.int32)


def _bicubic(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel with a = -0.5 at distances of at least 0."""
    near = (1.5 * distances - 2.5) * distances * distances + 1
    far = ((-0.5 * distances + 2.5) * distances - 4) * distances + 2
    return np.where(distances < 1, near, np.where(distances < 2, far, 0.0))


def table_bytes(longest: Size, size: Size) -> int:
    """What a `CropResizer` of these takes on its device, at most, beside what it works in."""
    taps = [2 * math.ceil(2 * max(1.0, length / each)) + 1 for length, each in zip(longest, size, strict=True)]
    return sum((length + 1) * each * (8 + 4 * tap) for length, each, tap in zip(longest, size, taps, strict=True))


class CropResizer:
    """Resizes crops of images of at most the `longest` height and width, in pixels, to one size.

    `device`: where the images are and the views will be.
    """

    def __init__(self, longest: Size, size: Size, device: torch.device) -> None:
        self._size = size
        self._down = _Axis(longest[0], size[0], device)
        same = (longest[0], size[0]) == (longest[1], size[1])
        self._across = self._down if same else _Axis(longest[1], size[1], device)

    def resize(self, columns: Tensor, samples: _Integers, boxes: _Integers) -> Tensor:
        """The crops of some of n images.

        Args:
            columns: uint8, (n, width, channels, height), contiguous; each image in the upper left corner of its place.
            samples: (b,), the image of each crop.
            boxes: (b, 5), left, top, width and height within that image, and whether (0 or 1) the view is mirrored.

        Returns uint8, (b, height, width, channels), of this object's size.
        """
        _, width, channels, height = columns.shape
        views = columns.new_empty((len(samples), *self._size, channels))
        if not len(samples):
            return views
        assert (boxes[:, :4] >= (0, 0, 1, 1)).all()
        assert (boxes[:, :2] + boxes[:, 2:4] <= (width, height)).all()
        host = torch.from_numpy(np.column_stack([samples, boxes]))
        wanted = (host.pin_memory() if columns.is_cuda else host).to(columns.device, non_blocking=True)
        taps = int(self._across.taps[boxes[:, 2]].max()), int(self._down.taps[boxes[:, 3]].max())
        values = self._size[1] * channels * max(self._size[0], height)  # of an image, after one pass or the other
        most = _BYTES_AT_A_TIME
        if columns.device.type == "cpu":
            most = min(most, _BYTES_A_THREAD * torch.get_num_threads())
        count = min(len(samples), max(1, most // (_Room.BYTES * values)))
        room = _Room(count * values, columns.device)
        for start in range(0, len(samples), count):
            piece = slice(start, start + count)
            self._resize(columns, wanted[piece], taps, room, views[piece])
        return views

    def _resize(self, columns: Tensor, wanted: Tensor, taps: tuple[int, int], room: "_Room", views: Tensor) -> None:
        """Fill `views` (b, height, width, channels) with what is `wanted`: (b, 6), the sample and its box."""
        images, width, channels, height = columns.shape
        count, values = len(wanted), self._size[1] * channels
        sample, left, top, crop_width, crop_height, mirrored = wanted.unbind(1)
        windows = self._across.windows(sample * width + left, crop_width, taps[0], mirrored > 0)
        room.filter(columns.view(images * width, channels * height), *windows)
        rows = room.transpose((count, values, height))  # of each image, (height, out_width * channels)
        windows = self._down.windows(torch.arange(count, device=top.device) * height + top, crop_height, taps[1])
        sums = room.filter(rows.view(count * height, values), *windows)
        views.copy_(sums.bitwise_right_shift_(_BITS).clamp_(0, 255).view(views.shape))


class _Axis:
    """The filter tables of all lengths up to the longest, for one size, on a device."""

    def __init__(self, longest: int, size: int, device: torch.device) -> None:
        tables = [filter_weights(length, size) for length in range(1, longest + 1)]
        self.taps = np.asarray([0] + [weights.shape[1] for _, weights in tables])  # of each length, 0 to the longest
        first = np.zeros((longest + 1, size), np.int64)
        weights = np.zeros((self.taps.max(), longest + 1, size), np.int32)
        for length, (begins, table) in enumerate(tables, 1):
            first[length], weights[: table.shape[1], length] = begins, table.T
        self._size = size
        self._first = torch.from_numpy(first.reshape(-1)).to(device)
        self._weights = torch.from_numpy(weights.reshape(len(weights), -1)).to(device)
        self._outputs = torch.arange(size, device=device)[None]

    def windows(
        self, begins: Tensor, lengths: Tensor, taps: int, mirrored: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of each output of b crops the first pixel and its weights, and the last pixel of its crop.

        Args:
            begins: (b,), the crop's first pixel on this axis.
            lengths: (b,), how many it has.
            taps: at least as many as any of these lengths has.
            mirrored: (b,), whether the outputs come in reverse.

        Returns first pixels (b, size), last pixels (b, 1) and weights (taps, b * size, 1).
        """
        outputs = self._outputs
        if mirrored is not None:
            outputs = torch.where(mirrored[:, None], self._size - 1 - outputs, outputs)
        places = lengths[:, None] * self._size + outputs
        first = begins[:, None] + self._first[places]
        last = (begins + lengths - 1)[:, None]
        return first, last, self._weights[:taps].index_select(1, places.flatten())[..., None]


class _Room:
    """Memory that one piece of a batch after another is worked on in, each array for so many values."""

    BYTES = 3 * 4 + 1  # for each value

    def __init__(self, values: int, device: torch.device) -> None:
        self._sums, self._taken, self._turned = torch.empty((3, values), dtype=torch.int32, device=device)
        self._taken_pixels = torch.empty(values, dtype=torch.uint8, device=device)

    def filter(self, lines: Tensor, first: Tensor, last: Tensor, weights: Tensor) -> Tensor:
        """The weighted sums, plus a half, of (lines, values), uint8 or int32: int32, (outputs, values)."""
        shape = (first.numel(), lines.shape[1])
        sums, taken, taken_pixels = (
            memory[: math.prod(shape)].view(shape) for memory in (self._sums, self._taken, self._taken_pixels)
        )
        sums.fill_(_HALF)
        for tap, weight in enumerate(weights):
            # Behind a window weights are zero: any pixel will do there, such as the crop's last.
            places = torch.minimum(first + tap, last).flatten()
            if lines.dtype == torch.uint8:
                taken.copy_(torch.index_select(lines, 0, places, out=taken_pixels))
            else:
                torch.index_select(lines, 0, places, out=taken)
            sums.addcmul_(taken, weight)
        return sums

    def transpose(self, shape: tuple[int, int, int]) -> Tensor:
        """The pixels of the last sums, taken as (b, m, n): int32, (b, n, m), contiguous."""
        batch, rows, columns = shape
        sums = self._sums[: math.prod(shape)].view(shape).transpose(1, 2)
        turned = self._turned[: math.prod(shape)].view(batch, columns, rows)
        return torch.bitwise_right_shift(sums, _BITS, out=turned).clamp_(0, 255)
