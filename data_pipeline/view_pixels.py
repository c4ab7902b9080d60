"""The pixels of views, only those needed: decoded once at the smallest scale that serves all crops, each resized once.

Apart from decoding, because this needs torch, which the many processes that write and check images do without.
"""

from collections.abc import Sequence
from time import perf_counter

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data_pipeline.arrays import DecodeError, Pixels
from data_pipeline.augment import Crop
from data_pipeline.decode import Box, decode_and_tell, decode_by_pillow, sniff, stored_box, upright
from data_pipeline.region_decoder import LEAST_SPARED, RegionDecoder

Size = tuple[int, int]
"""Height and width in pixels."""


class ViewDecoder:
    """Bytes of images to pixels of views. For one thread.

    `decode_seconds` and `resize_seconds`: what both have taken so far. `by_pillow`: images that Pillow decoded.
    """

    def __init__(self) -> None:
        self._regions = RegionDecoder()
        self.decode_seconds = 0.0
        self.resize_seconds = 0.0
        self.by_pillow = 0

    def views(
        self, data: bytes | memoryview, full: tuple[int, int], orientation: int, wanted: Sequence[tuple[Crop, Size]]
    ) -> list[Pixels]:
        """The pixels of crops of one image, each resized to its size with an antialiased bicubic filter.

        Args:
            data: the image's bytes.
            full: upright width and height in pixels.
            orientation: EXIF orientation of the stored pixels, 1 to 8.
            wanted: at least one box in upright pixels, with the size it is resized to; a box is moved by less than
                `scale` pixels where the JPEG is decoded at 1/scale.

        Returns pixels of the image's type and channels, which may be read-only and which the next call may overwrite.
        Integers are rounded and clipped to their type's range; float32 is left as the filter gives it, which overshoots
        at edges.

        Raises:
            DecodeError: the bytes do not decode, or to another size than the index says.
        """
        begin = perf_counter()
        scale = min([jpeg_scale(crop, size) for crop, size in wanted]) if sniff(data) == "jpg" else 1
        boxes = [snap(crop, scale) for crop, _ in wanted]
        corner, pixels = (0, 0), None
        if scale == 1 and full[0] * full[1] > LEAST_SPARED:
            region = _around(boxes)
            stored = full if orientation < 5 else (full[1], full[0])
            pixels = self._regions.decode(data, stored_box(region, orientation, full), stored)
            if pixels is not None:
                pixels = upright(pixels, orientation)
                corner = region[:2]
        if pixels is None:
            pixels, by_pillow = decode_and_tell(data, scale)
            self.by_pillow += by_pillow
            pixels = upright(pixels, orientation)
            _check_size(pixels, full, scale)
        middle = perf_counter()
        shown = [
            view_of(pixels, box, size, crop.mirrored, corner) for box, (crop, size) in zip(boxes, wanted, strict=True)
        ]
        self.decode_seconds += middle - begin
        self.resize_seconds += perf_counter() - middle
        return shown

    def views_of(self, pixels: Pixels, wanted: Sequence[tuple[Crop, Size]]) -> list[Pixels]:
        """The same of an image decoded before, upright and in full, where `jpeg_scale` is 1 for at least one view."""
        begin = perf_counter()
        shown = [view_of(pixels, snap(crop, 1), size, crop.mirrored) for crop, size in wanted]
        self.resize_seconds += perf_counter() - begin
        return shown

    def whole(self, data: bytes | memoryview, full: tuple[int, int], orientation: int) -> Pixels:
        """The upright image in full, as Pillow decodes it; arguments and errors as of `views`."""
        begin = perf_counter()
        pixels = upright(decode_by_pillow(data), orientation)
        self.by_pillow += sniff(data) in ("png", "other")
        _check_size(pixels, full, 1)
        self.decode_seconds += perf_counter() - begin
        return pixels


def jpeg_scale(crop: Crop, size: Size) -> int:
    """The largest of 1, 2, 4, 8 by which a JPEG can be decoded smaller and still cover the crop at twice its size.

    The factor of two leaves the filtering to the resize: decoding at the very size differs from Pillow's result by
    more than a grey level. Only powers of two have fast paths in libjpeg-turbo.
    """
    spare = min(crop.height // (2 * size[0]), crop.width // (2 * size[1]))
    return 1 << max(0, min(3, spare.bit_length() - 1)) if spare else 1


def snap(crop: Crop, scale: int) -> Box:
    """The crop in pixels of an image decoded at 1/scale."""
    if scale == 1:
        return Box(*crop[:4])
    return Box(crop.left // scale, crop.top // scale, max(1, crop.width // scale), max(1, crop.height // scale))


def view_of(pixels: Pixels, box: Box, size: Size, mirrored: bool, corner: tuple[int, int] = (0, 0)) -> Pixels:
    """A box of an upright image, resized, and mirrored if asked; `corner`: left and top of the pixels at hand."""
    left, top = box.left - corner[0], box.top - corner[1]
    pixels = pixels[top : top + box.height, left : left + box.width]
    if pixels.shape[:2] != size:
        return _resize(pixels, size, mirrored)
    return pixels[:, ::-1] if mirrored else pixels


def _around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all of them."""
    if len(boxes) == 1:
        return boxes[0]
    left, top = min(box.left for box in boxes), min(box.top for box in boxes)
    right, bottom = max(box.left + box.width for box in boxes), max(box.top + box.height for box in boxes)
    return Box(left, top, right - left, bottom - top)


def _check_size(pixels: Pixels, full: tuple[int, int], scale: int) -> None:
    expected = (-(-full[1] // scale), -(-full[0] // scale))
    if pixels.shape[:2] != expected:
        found = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise DecodeError(f"decodes to {found} pixels at 1/{scale}, the index says {full[0]} x {full[1]} in full")


def _resize(pixels: Pixels, size: Size, mirrored: bool) -> Pixels:
    narrow = pixels.dtype == np.uint16  # torch's antialiased filter takes uint8 and floats, of any number of channels
    if narrow:
        pixels = pixels.astype(np.float32, order="C")
    elif not pixels.flags.carray:  # torch takes no read-only memory, as mapped arrays are
        pixels = pixels.copy()
    # Channels last, without a copy. By reshape: the stride that [None] gives takes torch off its fast path.
    batch = torch.from_numpy(pixels.reshape(1, *pixels.shape).transpose(0, 3, 1, 2))
    resized: Tensor = functional.interpolate(batch, size, mode="bicubic", antialias=True)
    if mirrored:
        resized = resized.flip(-1)  # ten times as fast as numpy's, which moves single bytes
    values = resized.numpy()[0].transpose(1, 2, 0)
    return values.round().clip(0, np.iinfo(np.uint16).max).astype(np.uint16) if narrow else values
