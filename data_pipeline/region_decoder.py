"""One region of a JPEG without the rest: rows below it are not read, and those above it not turned into pixels.

By nvImageCodec on the CPU, whose libjpeg-turbo gives the very pixels that decoding the whole image gives there. Where
that library is not installed the whole image is decoded instead, with the same result.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from data_pipeline.arrays import Pixels
from data_pipeline.decode import Box

_PACKAGES = ("nvidia-nvimgcodec-cu13", "nvidia-nvimgcodec-cu12")
LEAST_SPARED = 8192
"""Pixels: fewer are decoded sooner than a region is set up."""


class RegionDecoder:
    """For one thread. What `decode` returns is overwritten by the next call."""

    def __init__(self) -> None:
        self._library = _load()
        if self._library is None:
            return
        library = self._library
        self._decoder = library.Decoder(
            device_id=library.NVIMGCODEC_DEVICE_CPU_ONLY,
            max_num_cpu_threads=1,
            backends=[library.Backend(library.CPU_ONLY)],
        )
        self._as_stored = library.DecodeParams(apply_exif_orientation=False)
        self._image: Any = None
        self._capacity = -1
        self._buffer = np.zeros(0, np.uint8)

    def decode(self, data: bytes | memoryview, box: Box, full: tuple[int, int]) -> Pixels | None:
        """The pixels of `box` (as stored, like `full`: width and height): RGB in uint8.

        None where decoding the whole image is to be preferred: little would be spared, it is printed in inks, its size
        is another one, it is damaged, or the library is absent.
        """
        if self._library is None or full[0] * full[1] - box.width * box.height < LEAST_SPARED:
            return None
        library = self._library
        try:
            stream = library.CodeStream(np.frombuffer(data, np.uint8))
            if stream.num_channels not in (1, 3) or (stream.width, stream.height) != full:
                return None
            region = library.Region(box.top, box.left, box.top + box.height, box.left + box.width)
            part = stream.get_sub_code_stream(region=region)
            image = self._decoder.decode(part, image=self._image, params=self._as_stored)
        except RuntimeError:
            return None
        if image is None:
            return None
        self._image = image
        return self._pixels(box)

    def _pixels(self, box: Box) -> Pixels:
        # The library loses 32 bytes whenever it is asked where an image lies, so that it is asked only when that may
        # have changed: with each image it would be gigabytes a day.
        if self._image.capacity != self._capacity:
            self._capacity = self._image.capacity
            address, _ = self._image.__array_interface__["data"]
            self._buffer = np.ctypeslib.as_array((ctypes.c_uint8 * self._capacity).from_address(address))
        return self._buffer[: box.height * box.width * 3].reshape(box.height, box.width, 3)


def region_decoder_version() -> str | None:
    """The version of the library that decodes regions; None where whole images are decoded."""
    for package in _PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None


def _load() -> Any:
    """The library's module; None where it is not installed."""
    with _silent_loader():
        try:
            from nvidia import nvimgcodec
        except ImportError:
            return None
    return nvimgcodec


@contextmanager
def _silent_loader() -> Iterator[None]:
    """Keep from the terminal what the library writes there where its counterparts for GPUs, not needed, are absent."""
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
