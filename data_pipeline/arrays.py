"""Images as arrays of (height, width, channel), and those that are stored as arrays: .npy files, never pickles."""

import io
import math
import tokenize
import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

Pixels = NDArray[Any]  # (height, width, channel) of one of DTYPES; a picture is RGB in uint8

DTYPES = ("uint8", "uint16", "float32")
ARRAY_START = b"\x93NUMPY"

_MOST_PIXELS = 178_956_970  # where Pillow, too, takes an image for a decompression bomb
_MOST_HEADER = 10_000  # bytes of a header that numpy parses
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# All that numpy's parser lets out when a header is malformed.
_HEADER_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    SyntaxError,
    MemoryError,
    RecursionError,
    tokenize.TokenError,
)


class DecodeError(ValueError):
    """Bytes that are not a whole image of a format that can be read."""


class Header(NamedTuple):
    """How an .npy file lays out its values: they begin at byte `start`, `fortran` has the first index run fastest."""

    start: int
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool


def check_size(width: int, height: int) -> None:
    """Refuse what would take too much memory, before anything is decoded.

    Raises:
        DecodeError: more pixels than Pillow, too, would read.
    """
    if width * height > _MOST_PIXELS:
        raise DecodeError(f"{width} x {height} pixels: more than {_MOST_PIXELS:,}, taken for a decompression bomb")


def read_header(data: bytes | memoryview) -> Header:
    """The header of an .npy file of pixels, from all of its bytes or from the first few thousand.

    Raises:
        DecodeError: not an array of (height, width) or (height, width, channel) of one of `DTYPES`, or too large.
    """
    start = bytes(data[:12])
    version = tuple(start[6:8])
    if not start.startswith(ARRAY_START) or version not in _READERS:
        raise DecodeError(f"not a whole array: no .npy file of version 1.0 or 2.0 begins with {start[:8]!r}")
    width = 2 if version == (1, 0) else 4
    length = 8 + width + int.from_bytes(start[8 : 8 + width], "little")
    if length > min(len(data), _MOST_HEADER):
        raise DecodeError(f"not a whole array: a header of {length:,} bytes in {len(data):,}")
    return _parse(bytes(data[:length]))


def read_array(data: bytes | memoryview) -> Pixels:
    """The values of an .npy file as (height, width, channel); two dimensions are one channel.

    Without a copy, and read-only, where they lie in C order and in this machine's byte order.

    Raises:
        DecodeError: not such an array, or not all of one.
    """
    header = read_header(data)
    values = math.prod(header.shape)
    expected = header.start + values * header.dtype.itemsize
    if len(data) != expected:
        raise DecodeError(
            f"not a whole array: {' x '.join(map(str, header.shape))} values of {header.dtype.name} take "
            f"{expected:,} bytes, found {len(data):,}"
        )
    stored = np.frombuffer(data, header.dtype, values, header.start)
    pixels = stored.reshape(header.shape, order="F" if header.fortran else "C")
    pixels = np.ascontiguousarray(pixels, header.dtype.newbyteorder("="))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def check_finite(pixels: Pixels) -> None:
    """Refuse values of which one alone makes a loss NaN.

    Raises:
        DecodeError: NaN or an infinity among them.
    """
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        count = pixels.size - np.count_nonzero(np.isfinite(pixels))
        raise DecodeError(f"{count:,} of {pixels.size:,} values are NaN or infinite; expected numbers throughout")


@lru_cache(maxsize=64)  # parsing one takes longer than decoding a small image, and those of a dataset are mostly alike
def _parse(header: bytes) -> Header:
    file = io.BytesIO(header)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            shape, fortran, dtype = _READERS[npy.read_magic(file)](file, max_header_size=_MOST_HEADER)
            name = dtype.name
    except _HEADER_ERRORS as error:
        raise DecodeError(f"not a whole array: {str(error).splitlines()[0] if str(error) else type(error)}") from error
    if name not in DTYPES or dtype.shape:
        raise DecodeError(f"an array of {name}; accepted: {', '.join(DTYPES)}")
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise DecodeError(f"an array of shape {shape}; accepted: (height, width) and (height, width, channel)")
    check_size(shape[1], shape[0])
    return Header(len(header), shape, dtype, fortran)
