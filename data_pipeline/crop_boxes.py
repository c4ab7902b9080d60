"""The crops of a whole batch in one go: for each sample the box that its view draws alone, to the last bit.

The numbers are those of `randomness.Draws`, whose hash (XXH3 of 8 bytes with a seed: the draw's number, the sample's
key) is written out here for arrays.
"""

import math
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_pipeline.augment import CenterCrop, RandomResizedCrop, View

_Keys = NDArray[np.uint64]
_Integers = NDArray[np.int64]
_Floats = NDArray[np.float64]

_ATTEMPTS = 10  # as `RandomResizedCrop.draw`
_HALF = np.uint64(32)  # bits of half a number
_LOW = np.uint64(0xFFFFFFFF)
# XXH3 of 4 to 8 bytes: bytes 8 to 16 of its secret xor bytes 16 to 24, its multiplier, and the length in bytes.
_SECRET = np.uint64(0x1CAD21F72C81017C ^ 0xDB979083E96DD4DE)
_MULTIPLIER = np.uint64(0x9FB21C651E98DF25)
_LENGTH = np.uint64(8)


def check_view(view: View) -> None:
    """Refuse a view whose crops are not drawn in batches.

    Raises:
        ValueError: any but a `RandomResizedCrop` without a policy and a `CenterCrop`; a `MultiView` is drawn by groups.
    """
    policy = view.policy if type(view) is RandomResizedCrop else None
    if policy is not None:
        raise ValueError(
            f"--cache device: {policy} changes the pixels of one image after another, on a CPU; leave the "
            "policy out, or use --cache memory"
        )
    if type(view) not in (RandomResizedCrop, CenterCrop):
        raise ValueError(
            f"--cache device: shows views of RandomResizedCrop without a policy and of CenterCrop, found {view!r}; "
            "use --cache memory"
        )


def keys_of(words: _Keys) -> _Keys:
    """What `randomness.key(*row)` gives for each row of words: (b, words) -> (b,)."""
    data, width = np.ascontiguousarray(words, "<u8").tobytes(), 8 * words.shape[1]
    digest = xxhash.xxh3_64_intdigest
    return np.asarray([digest(data[start : start + width]) for start in range(0, len(data), width)], np.uint64)


def draw_boxes(
    view: View, keys: _Keys, widths: NDArray[np.integer[Any]], heights: NDArray[np.integer[Any]]
) -> _Integers:
    """What `view.draw` gives for each sample's `Draws`: left, top, width, height and mirrored (0 or 1).

    Args:
        view: one that `check_view` lets through.
        keys: (b,), the key of each sample's draws (see `keys_of`).
        widths, heights: (b,), of the upright images in pixels.

    Returns shape (b, 5).

    Raises:
        ValueError: another view.
    """
    check_view(view)
    widths, heights = widths.astype(np.int64, copy=False), heights.astype(np.int64, copy=False)  # areas are large
    if isinstance(view, CenterCrop):
        return _central(view, widths, heights)
    assert isinstance(view, RandomResizedCrop)
    return _random(view, keys, widths, heights)


def _central(view: CenterCrop, widths: _Integers, heights: _Integers) -> _Integers:
    height, width = view.size
    scale = view.fraction * np.minimum(heights / height, widths / width)
    crop_heights = np.minimum(heights, np.maximum(1, np.rint(height * scale).astype(np.int64)))
    crop_widths = np.minimum(widths, np.maximum(1, np.rint(width * scale).astype(np.int64)))
    lefts, tops = (widths - crop_widths) // 2, (heights - crop_heights) // 2
    return np.stack([lefts, tops, crop_widths, crop_heights, np.zeros_like(lefts)], 1)


def _random(view: RandomResizedCrop, keys: _Keys, widths: _Integers, heights: _Integers) -> _Integers:
    mixed = _mix(keys)
    boxes = np.empty((len(keys), 5), np.int64)
    boxes[:, 4] = _uniform(mixed, 1, 0.0, 1.0) < view.mirror
    low, high = math.log(view.ratio[0]), math.log(view.ratio[1])
    areas = (widths * heights).astype(np.float64)
    rows = np.arange(len(keys))  # those whose attempts have all failed
    for attempt in range(_ATTEMPTS):
        number = 2 + 2 * attempt  # of the draw
        area = areas[rows] * _uniform(mixed[rows], number, *view.scale)
        # numpy's exp differs from the C library's in the last bit, and with the processor; its sqrt does not.
        ratio = np.asarray(list(map(math.exp, _uniform(mixed[rows], number + 1, low, high).tolist())))
        wide, tall = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (wide > 0) & (wide <= widths[rows]) & (tall > 0) & (tall <= heights[rows])
        fitting = rows[fits]
        crop_widths, crop_heights = wide[fits].astype(np.int64), tall[fits].astype(np.int64)
        boxes[fitting, 0] = _integers(mixed[fitting], number + 2, widths[fitting] - crop_widths + 1)
        boxes[fitting, 1] = _integers(mixed[fitting], number + 3, heights[fitting] - crop_heights + 1)
        boxes[fitting, 2], boxes[fitting, 3] = crop_widths, crop_heights
        rows = rows[~fits]
        if not len(rows):
            return boxes
    boxes[rows, :4] = _largest(view, widths[rows], heights[rows])
    return boxes


def _largest(view: RandomResizedCrop, widths: _Integers, heights: _Integers) -> _Integers:
    """The largest central boxes of an allowed ratio: (b, 4)."""
    crop_widths = np.minimum(widths, np.maximum(1, np.rint(heights * view.ratio[1]).astype(np.int64)))
    crop_heights = np.minimum(heights, np.maximum(1, np.rint(widths / view.ratio[0]).astype(np.int64)))
    return np.stack([(widths - crop_widths) // 2, (heights - crop_heights) // 2, crop_widths, crop_heights], 1)


def _mix(keys: _Keys) -> _Keys:
    """What the hash makes of its seed alone."""
    swapped = keys.astype(np.uint32).byteswap().astype(np.uint64)
    return _SECRET - (keys ^ (swapped << _HALF))


def _bits(mixed: _Keys, number: int) -> _Keys:
    """The 64 random bits of each key's draw of this number, counted from 1; `mixed` as `_mix` gives it."""
    state = mixed ^ np.uint64(number << 32)
    state ^= _rotated(state, 49) ^ _rotated(state, 24)
    state *= _MULTIPLIER
    state ^= (state >> np.uint64(35)) + _LENGTH
    state *= _MULTIPLIER
    state ^= state >> np.uint64(28)
    return state


def _rotated(state: _Keys, left: int) -> _Keys:
    return (state << np.uint64(left)) | (state >> np.uint64(64 - left))


def _uniform(mixed: _Keys, number: int, low: float, high: float) -> _Floats:
    """Numbers in [low, high)."""
    return low + (high - low) * (_bits(mixed, number) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _integers(mixed: _Keys, number: int, counts: _Integers) -> _Integers:
    """Integers in [0, count), for counts below 2^32: the upper half of a product of 128 bits."""
    bits, factors = _bits(mixed, number), counts.astype(np.uint64)
    carried = (bits & _LOW) * factors >> _HALF
    return (((bits >> _HALF) * factors + carried) >> _HALF).astype(np.int64)
