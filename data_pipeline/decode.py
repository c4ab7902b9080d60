"""Bytes to pixels: JPEG by libjpeg-turbo, arrays by numpy, all else by Pillow; strict where images are written.

Every picture becomes RGB in uint8. Of 16-bit values the high byte is kept, and transparency is dropped, not blended:
what a palette or an alpha channel hides is shown in the colours stored for it, as torchvision and timm do.
"""

import io
import struct
import warnings
import zlib
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

from data_pipeline.arrays import ARRAY_START, DecodeError, Pixels, check_finite, check_size, read_array

_JPEG_START = b"\xff\xd8\xff"
_PNG_START = b"\x89PNG\r\n\x1a\n"
# All that Pillow's plugins let out when bytes are malformed.
PILLOW_ERRORS = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    MemoryError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ImportError,
    struct.error,
    zlib.error,
)


class ImageFacts(NamedTuple):
    """What a strict reading of an image finds; width and height in pixels, after the orientation (EXIF, 1-8).

    `channels` and `dtype` are those of its pixels.
    """

    extension: str
    width: int
    height: int
    orientation: int
    channels: int = 3
    dtype: str = "uint8"


class Box(NamedTuple):
    """A part of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int


def sniff(data: bytes | memoryview) -> str:
    """The extension that the first bytes speak for: "jpg", "png", "npy" or "other"."""
    if data[:3] == _JPEG_START:
        return "jpg"
    if data[:8] == _PNG_START:
        return "png"
    return "npy" if data[:6] == ARRAY_START else "other"


def read_strictly(data: bytes) -> tuple[ImageFacts, Pixels]:
    """Decode a whole image, refusing what lenient decoders pass in silence (cut or altered JPEG streams).

    Returns its facts and its upright pixels, which may be read-only.

    Raises:
        DecodeError: with the decoder's reason.
    """
    kind, orientation = sniff(data), 1
    if kind == "jpg":
        orientation = _jpeg_orientation(data)
        pixels = decode(data, strict=True)
    elif kind == "npy":
        pixels = read_array(data)
        check_finite(pixels)
    else:
        pixels, orientation = _read_with_pillow(data)
    pixels = upright(pixels, orientation)
    height, width, channels = pixels.shape
    return ImageFacts(kind, width, height, orientation, channels, pixels.dtype.name), pixels


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Apply an EXIF orientation (1-8, EXIF 2.32, tag 0x0112) as a view of the pixels."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def stored_box(box: Box, orientation: int, full: tuple[int, int]) -> Box:
    """Where a box of the upright image, `full` pixels wide and high, lies in the pixels as stored."""
    left, top, width, height = box
    if orientation in (2, 3, 6, 7):
        left = full[0] - left - width
    if orientation in (3, 4, 7, 8):
        top = full[1] - top - height
    return Box(top, left, height, width) if orientation >= 5 else Box(left, top, width, height)


def to_png(pixels: Pixels) -> bytes:
    """Encode RGB in uint8 losslessly, with settings that never change, so that the same pixels are the same bytes."""
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    buffer = io.BytesIO()
    grey = bool((pixels == pixels[..., :1]).all())
    Image.fromarray(pixels[..., 0] if grey else pixels).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def decode(data: bytes | memoryview, scale: int = 1, strict: bool = False) -> Pixels:
    """All pixels as stored, before the orientation is applied; a JPEG at 1/scale (1, 2, 4 or 8), rounded up.

    Raises:
        DecodeError: the bytes do not decode.
    """
    return decode_and_tell(data, scale, strict)[0]


def decode_and_tell(data: bytes | memoryview, scale: int = 1, strict: bool = False) -> tuple[Pixels, bool]:
    """What `decode` gives, and whether it was Pillow that decoded it, which takes several times as long."""
    kind = sniff(data)
    if kind == "npy":
        return read_array(data), False
    if kind != "jpg":
        return _read_with_pillow(data)[0], True
    try:
        header = simplejpeg.decode_jpeg_header(data)
        height, width, colours = int(header[0]), int(header[1]), header[2]
        check_size(width, height)
        if colours in ("CMYK", "YCCK"):
            if strict:
                simplejpeg.decode_jpeg(data, "CMYK")  # Pillow, which has the colours right, passes altered streams
            return _read_with_pillow(data, scale)[0], True
        least = (-(-height // scale), -(-width // scale))
        return simplejpeg.decode_jpeg(data, "RGB", min_height=least[0], min_width=least[1], min_factor=scale), False
    except DecodeError:
        raise
    except ValueError as error:
        raise DecodeError(f"not a whole JPEG: {error}") from error


def decode_by_pillow(data: bytes | memoryview) -> Pixels:
    """What `decode` gives, JPEGs too as Pillow decodes them, whose libjpeg may be another one; arrays as they are.

    Raises:
        DecodeError: the bytes do not decode.
    """
    return read_array(data) if sniff(data) == "npy" else _read_with_pillow(data)[0]


def _read_with_pillow(data: bytes | memoryview, scale: int = 1) -> tuple[Pixels, int]:
    """Pixels at 1/scale, and the orientation that is still to be applied: Pillow itself applies that of a TIFF."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of oddities in metadata; the pixels are what counts
            with Image.open(io.BytesIO(data)) as image:
                _check_header(image)
                rgb = _to_rgb(image)
                pixels = np.array(rgb if scale == 1 else rgb.reduce(scale))  # a copy: torch refuses read-only memory
                return pixels, _orientation(image)
    except DecodeError:
        raise
    except PILLOW_ERRORS as error:
        raise DecodeError(f"not a whole image: {_reason(error)}") from error


def _check_header(image: Image.Image) -> None:
    if image.format == "EPS":
        raise DecodeError("EPS is a program for a printer: it is not run to see what it draws")
    check_size(*image.size)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):  # convert() would clip at 255 instead of scaling
        values = _in_range(image, 65535)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F" and 0 < _in_range(image, 255).max() <= 1:
        raise DecodeError(
            "floating-point grey values from 0 to 1, where 0 to 255 is expected: a black picture; store it as .npy"
        )
    return image.convert("RGB")


def _in_range(image: Image.Image, most: int) -> np.ndarray:
    """The values of a grey image, which would be distorted without a word if they were not all from 0 to `most`."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= most):  # so that NaN is refused too
        raise DecodeError(f"grey values from {low:g} to {high:g}, expected 0 to {most}: store it as .npy")
    return values


def _jpeg_orientation(data: bytes) -> int:
    if b"Exif\0" not in data and b"tiff:Orientation" not in data:
        return 1  # nothing for Pillow to find; opening a small JPEG takes it longer than decoding does
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                return _orientation(image)
    except PILLOW_ERRORS as error:
        raise DecodeError(f"not an image: {_reason(error)}") from error


def _orientation(image: Image.Image) -> int:
    value = 1
    with suppress(*PILLOW_ERRORS):  # broken metadata is no broken image
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in range(1, 9) else 1


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its text holds an address in memory: another in every process
        return "no format that Pillow knows"
    return str(error) or type(error).__name__
