"""The pixels of views, only those needed: decoded once at the smallest scale that serves all crops, each resized once.

Apart from decoding, because this needs torch, which the many processes that write and check images do without.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from data_pipeline.arrays import DecodeError, Pixels
from data_pipeline.augment import Crop
from data_pipeline.decode import decode, sniff, upright

Size = tuple[int, int]
"""Height and width in pixels."""


def decode_view(data: bytes | memoryview, full: tuple[int, int], orientation: int, crop: Crop, size: Size) -> Pixels:
    """The pixels of one view; see `decode_views`."""
    return decode_views(data, full, orientation, [(crop, size)])[0]


def decode_views(
    data: bytes | memoryview, full: tuple[int, int], orientation: int, wanted: Sequence[tuple[Crop, Size]]
) -> list[Pixels]:
    """The pixels of crops of one image, each resized to its size with an antialiased bicubic filter.

    Args:
        data: the image's bytes.
        full: upright width and height in pixels.
        orientation: EXIF orientation of the stored pixels, 1 to 8.
        wanted: at least one box in upright pixels, with the size it is resized to; a box is moved by less than `scale`
            pixels where the JPEG is decoded at 1/scale.

    Returns pixels of the image's type and channels, which may be read-only. Integers are rounded and clipped to their
    type's range; float32 is left as the filter gives it, which overshoots at edges.

    Raises:
        DecodeError: the bytes do not decode, or to another size than the index says.
    """
    scale = min([jpeg_scale(crop, size) for crop, size in wanted]) if sniff(data) == "jpg" else 1
    pixels = upright(decode(data, scale), orientation)
    expected = (-(-full[1] // scale), -(-full[0] // scale))
    if pixels.shape[:2] != expected:
        found = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise DecodeError(f"decodes to {found} pixels at 1/{scale}, the index says {full[0]} x {full[1]} in full")
    return [_view(pixels, crop, size, scale) for crop, size in wanted]


def jpeg_scale(crop: Crop, size: Size) -> int:
    """The largest of 1, 2, 4, 8 by which a JPEG can be decoded smaller and still cover the crop at twice its size.

    The factor of two leaves the filtering to the resize: decoding at the very size differs from Pillow's result by
    more than a grey level. Only powers of two have fast paths in libjpeg-turbo.
    """
    spare = min(crop.height // (2 * size[0]), crop.width // (2 * size[1]))
    return 1 << max(0, min(3, spare.bit_length() - 1)) if spare else 1


def snap(crop: Crop, scale: int) -> tuple[int, int, int, int]:
    """The crop's left, top, width and height in pixels of an image decoded at 1/scale."""
    return crop.left // scale, crop.top // scale, max(1, crop.width // scale), max(1, crop.height // scale)


def _view(pixels: Pixels, crop: Crop, size: Size, scale: int) -> Pixels:
    left, top, width, height = snap(crop, scale)
    pixels = pixels[top : top + height, left : left + width]
    if pixels.shape[:2] != size:
        pixels = _resize(pixels, size)
    return pixels[:, ::-1] if crop.mirrored else pixels


def _resize(pixels: Pixels, size: Size) -> Pixels:
    narrow = pixels.dtype == np.uint16  # torch's antialiased filter takes uint8 and floats, of any number of channels
    if narrow:
        pixels = pixels.astype(np.float32, order="C")
    elif not pixels.flags.carray:  # torch takes no read-only memory, as mapped arrays are
        pixels = pixels.copy()
    # Channels last, without a copy. By reshape: the stride that [None] gives takes torch off its fast path.
    batch = torch.from_numpy(pixels.reshape(1, *pixels.shape).transpose(0, 3, 1, 2))
    resized = functional.interpolate(batch, size, mode="bicubic", antialias=True).numpy()[0].transpose(1, 2, 0)
    return resized.round().clip(0, np.iinfo(np.uint16).max).astype(np.uint16) if narrow else resized
