"""Bytes to pixels, only those needed: decoded at the smallest scale that covers the crop, resized once, kept uint8."""

import io
import warnings
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch.nn import functional

from data_pipeline.augment import Crop

Pixels = NDArray[np.uint8]  # (height, width, channel), RGB

_JPEG_START = b"\xff\xd8\xff"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_MOST_PIXELS = 178_956_970  # where Pillow, too, takes an image for a decompression bomb
_PILLOW_ERRORS = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    MemoryError,
)


class DecodeError(ValueError):
    """Bytes that are not a whole image of a format that can be read."""


class ImageFacts(NamedTuple):
    """What a strict reading of an image finds; width and height in pixels, after the orientation (EXIF, 1-8)."""

    extension: str
    width: int
    height: int
    orientation: int


def sniff(data: bytes | memoryview) -> str:
    """The extension that the first bytes speak for: "jpg", "png" or "other"."""
    start = bytes(data[:8])
    if start.startswith(_JPEG_START):
        return "jpg"
    return "png" if start == _PNG_START else "other"


def read_strictly(data: bytes) -> tuple[ImageFacts, Pixels]:
    """Decode a whole image, refusing what lenient decoders pass in silence (cut or altered JPEG streams).

    Returns its facts and its upright pixels.

    Raises:
        DecodeError: with the decoder's reason.
    """
    orientation = _orientation(data)
    pixels = upright(_decode(data), orientation)
    return ImageFacts(sniff(data), pixels.shape[1], pixels.shape[0], orientation), pixels


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
    pixels = upright(_decode(data, scale), orientation)
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


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Apply an EXIF orientation (1-8, EXIF 2.32, tag 0x0112) as a view of the pixels."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def to_png(pixels: Pixels) -> bytes:
    """Encode losslessly, with settings that never change, so that the same pixels are the same bytes."""
    buffer = io.BytesIO()
    grey = bool((pixels == pixels[..., :1]).all())
    Image.fromarray(pixels[..., 0] if grey else pixels).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _decode(data: bytes | memoryview, scale: int = 1) -> Pixels:
    if sniff(data) != "jpg":
        return _decode_with_pillow(data)
    try:
        header = simplejpeg.decode_jpeg_header(data)
        height, width, colours = int(header[0]), int(header[1]), header[2]
        if colours in ("CMYK", "YCCK"):
            return _decode_with_pillow(data)
        _check_size(width, height)
        least = (-(-height // scale), -(-width // scale))
        return simplejpeg.decode_jpeg(data, "RGB", min_height=least[0], min_width=least[1], min_factor=scale)
    except ValueError as error:
        raise DecodeError(f"not a whole JPEG: {error}") from error


def _decode_with_pillow(data: bytes | memoryview) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of oddities in metadata; the pixels are what counts
            with Image.open(io.BytesIO(data)) as image:
                _check_size(*image.size)
                return np.array(_to_rgb(image))  # a copy: torch refuses read-only memory
    except _PILLOW_ERRORS as error:
        raise DecodeError(f"not a whole image: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":  # convert() would clip at 255 instead of scaling
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _check_size(width: int, height: int) -> None:
    if width * height > _MOST_PIXELS:
        raise DecodeError(f"{width} x {height} pixels: more than {_MOST_PIXELS:,}, taken for a decompression bomb")


def _orientation(data: bytes) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _PILLOW_ERRORS as error:
        raise DecodeError(f"not an image: {error}") from error
    return value if value in range(1, 9) else 1
