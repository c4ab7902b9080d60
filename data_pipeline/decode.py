"""Bytes to pixels: JPEG by libjpeg-turbo, all else by Pillow; strict where images are written."""

import io
import struct
import warnings
import zlib
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

Pixels = NDArray[np.uint8]  # (height, width, channel), RGB

_JPEG_START = b"\xff\xd8\xff"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_MOST_PIXELS = 178_956_970  # where Pillow, too, takes an image for a decompression bomb
# All that Pillow's plugins let out when bytes are malformed.
_PILLOW_ERRORS = (
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
    struct.error,
    zlib.error,
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
    pixels = upright(decode(data, strict=True), orientation)
    return ImageFacts(sniff(data), pixels.shape[1], pixels.shape[0], orientation), pixels


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


def decode(data: bytes | memoryview, scale: int = 1, strict: bool = False) -> Pixels:
    """All pixels as stored, before the orientation is applied; a JPEG at 1/scale (1, 2, 4 or 8), rounded up.

    Raises:
        DecodeError: the bytes do not decode.
    """
    if sniff(data) != "jpg":
        return _decode_with_pillow(data)
    try:
        header = simplejpeg.decode_jpeg_header(data)
        height, width, colours = int(header[0]), int(header[1]), header[2]
        if colours in ("CMYK", "YCCK"):
            if strict:
                simplejpeg.decode_jpeg(data, "CMYK")  # Pillow, which has the colours right, passes altered streams
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
    if sniff(data) == "jpg" and b"Exif\0" not in data and b"tiff:Orientation" not in data:
        return 1  # nothing for Pillow to find; opening a small JPEG takes it longer than decoding does
    value = 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image, suppress(*_PILLOW_ERRORS):  # broken metadata is no broken image
                value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _PILLOW_ERRORS as error:
        raise DecodeError(f"not an image: {_reason(error)}") from error
    return value if value in range(1, 9) else 1


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its text holds an address in memory: another in every process
        return "no format that Pillow knows"
    return str(error) or type(error).__name__
