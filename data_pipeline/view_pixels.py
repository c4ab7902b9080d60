"""The pixels of a view, only those needed: decoded at the smallest scale that serves the crop, resized once, uint8.

Apart from decoding, because this needs torch, which the many processes that write and check images do without.
"""

import numpy as np
import torch
from torch.nn import functional

from data_pipeline.augment import Crop
from data_pipeline.decode import DecodeError, Pixels, decode, sniff, upright


def decode_view(
    data: bytes | memoryview, full: tuple[int, int], orientation: int, crop: Crop, size: tuple[int, int]
) -> Pixels:
    """The pixels of a crop, resized to `size` (height, width) with an antialiased bicubic filter.

    Args:
        data: the image's bytes.
        full: upright width and height in pixels.
        orientation: EXIF orientation of the stored pixels, 1 to 8.
        crop: box in upright pixels; moved by less than `scale` pixels where the JPEG is decoded at 1/scale.
        size: height and width of the result.

    Raises:
        DecodeError: the bytes do not decode, or to another size than the index says.
    """
    scale = jpeg_scale(crop, size) if sniff(data) == "jpg" else 1
    pixels = upright(decode(data, scale), orientation)
    expected = (-(-full[1] // scale), -(-full[0] // scale))
    if pixels.shape[:2] != expected:
        found = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise DecodeError(f"decodes to {found} pixels at 1/{scale}, the index says {full[0]} x {full[1]} in full")
    left, top, width, height = snap(crop, scale)
    pixels = pixels[top : top + height, left : left + width]
    if pixels.shape[:2] != size:
        batch = torch.from_numpy(np.ascontiguousarray(pixels))[None].permute(0, 3, 1, 2)  # channels last: no copy
        resized = functional.interpolate(batch, size, mode="bicubic", antialias=True)
        pixels = resized[0].permute(1, 2, 0).numpy()
    return pixels[:, ::-1] if crop.mirrored else pixels


def jpeg_scale(crop: Crop, size: tuple[int, int]) -> int:
    """The largest of 1, 2, 4, 8 by which a JPEG can be decoded smaller and still cover the crop at twice its size.

    The factor of two leaves the filtering to the resize: decoding at the very size differs from Pillow's result by
    more than a grey level. Only powers of two have fast paths in libjpeg-turbo.
    """
    spare = min(crop.height // (2 * size[0]), crop.width // (2 * size[1]))
    return 1 << max(0, min(3, spare.bit_length() - 1)) if spare else 1


def snap(crop: Crop, scale: int) -> tuple[int, int, int, int]:
    """The crop's left, top, width and height in pixels of an image decoded at 1/scale."""
    return crop.left // scale, crop.top // scale, max(1, crop.width // scale), max(1, crop.height // scale)
