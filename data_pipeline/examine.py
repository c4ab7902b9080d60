"""Pass one over a corpus: what must be known of every image before it is decided which are written.

A task examines a range of a listing and leaves a file of facts, one record an image, so that a killed run goes on
where it was, and whatever comes next reads the facts from the disk.
"""

import io
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import xxhash
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import ExifTags, Image

from data_pipeline.arrays import DecodeError, Pixels, check_finite, read_header
from data_pipeline.decode import PILLOW_ERRORS, decode, sniff, upright
from data_pipeline.listing import Listing
from data_pipeline.sources import MissingImageError, Source
from data_pipeline.task_pool import Report
from launch.atomic import write_atomically

Depth = Literal["format", "bytes", "pixels"]
"""How far images are read: their first bytes, all of them, or decoded as well; each finds out more than the last."""

FORMATS = ("other", "jpg", "png", "npy")

# One record an image, in the order of the listing, whose `number` it bears. The hash is XXH3-128 of the bytes; width
# and height are upright pixels, as the header has them; `perceptual` is the pHash; `format` counts in FORMATS.
# `readable` is 1 where all that the depth asks for could be read; what could not be, or was not asked for, is 0.
FACTS = np.dtype(
    [
        ("number", "<u8"),
        ("hash_high", "<u8"),
        ("hash_low", "<u8"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("perceptual", "<u8"),
        ("format", "u1"),
        ("readable", "u1"),
    ]
)

_FIRST_BYTES = 16
_HASHED_SIDE = 64  # pixels; the hash looks at 32 x 32, so that twice as many leave the filtering to its own resize


@dataclass(frozen=True)
class Rules:
    """What is left out, and what is held out; sides in pixels, None for no bound. It decides what must be known."""

    min_side: int | None = None
    max_pixels: int | None = None
    max_aspect: float | None = None
    duplicates: Literal["drop", "keep"] = "drop"
    near_duplicates: Literal["ignore", "report", "drop"] = "ignore"
    holdout: float = 0.0

    @property
    def depth(self) -> Depth:
        """How far images must be examined for these."""
        if self.near_duplicates != "ignore":
            return "pixels"
        bounds = (self.min_side, self.max_pixels, self.max_aspect)
        plain = bounds == (None, None, None) and self.duplicates == "keep" and not self.holdout
        return "format" if plain else "bytes"

    def check_splits(self, images: Mapping[str, int]) -> None:
        """Whether a source of these splits, with so many images, can give a hold-out: before any image is read.

        Raises:
            ValueError: it has a split `validation` already, or no `train`.
        """
        option = f"--holdout {self.holdout:g} takes images of train for validation, and the source has"
        if self.holdout and "validation" in images:
            held = images["validation"]
            raise ValueError(f"{option} a split validation already, of {held:,} images; leave the option out")
        if self.holdout and "train" not in images:
            raise ValueError(f"{option} no train, but {', '.join(images)}; leave the option out")

    def check(self, facts: np.ndarray) -> NDArray[np.uint8]:
        """The bound that each image's size breaks: 1, 2 or 3 in the order above, 0 for none; shape (images,).

        What has no size passes: the strict decoder has better reasons.
        """
        width, height = facts["width"].astype(np.int64), facts["height"].astype(np.int64)
        short, long = np.minimum(width, height), np.maximum(width, height)
        broken = (
            short < (self.min_side or 0),
            (width * height > self.max_pixels) if self.max_pixels is not None else False,
            (long > self.max_aspect * short) if self.max_aspect is not None else False,
        )
        found = np.zeros(len(facts), np.uint8)
        for reason, wrong in reversed(list(enumerate(broken, 1))):
            found[wrong & (facts["readable"] == 1)] = reason
        return found

    def explain(self, reason: int, width: int, height: int) -> str:
        """A reason of `check` in words."""
        size = f"{width:,} x {height:,} pixels"
        if reason == 1:
            return f"{size}: shorter than --min-side {self.min_side}"
        if reason == 2:
            return f"{size}: {width * height:,} of them, --max-pixels is {self.max_pixels}"
        aspect = max(width, height) / min(width, height)
        return f"{size}: one side is {aspect:.4g} times the other, --max-aspect is {self.max_aspect:g}"


@dataclass(frozen=True)
class ExamineTask:
    """Finds out the facts of the images `start` to `stop` of a listing, and writes them to `target` (.npy).

    Where `target` lies must tell listings and depths apart: a whole file of the same numbers is taken as it is.
    """

    source: Source
    listing: Listing
    start: int
    stop: int
    target: Path
    depth: Depth

    def __str__(self) -> str:
        return f"examining images {self.start:,} to {self.stop - 1:,} of split {self.listing.split}"

    def run(self, report: Report) -> Path:
        """The file of facts, which is whole then; at once if it was so already.

        What cannot be read as an image, or is only named by the source, is a fact, and no error.

        Raises:
            ValueError: depth "pixels" without the library that hashes them.
            OSError: bytes that the source does not give, or a full disk.
        """
        if self._is_whole():
            report(self.stop - self.start)
            return self.target
        if self.depth == "pixels":
            load_imagehash()
        facts = np.zeros(self.stop - self.start, FACTS)
        for number in range(self.start, self.stop):
            facts[number - self.start] = (number, *self._examine(number))
            report(1)
        buffer = io.BytesIO()
        np.save(buffer, facts, allow_pickle=False)
        write_atomically(self.target, buffer.getvalue())
        return self.target

    def _examine(self, number: int) -> tuple[int, ...]:
        entry = self.listing.entry(number)
        try:
            data = self.source.read(self.listing.split, entry, _FIRST_BYTES if self.depth == "format" else None)
        except MissingImageError:
            return 0, 0, 0, 0, 0, 0, 0
        kind = FORMATS.index(sniff(data))
        if self.depth == "format":
            return 0, 0, 0, 0, 0, kind, len(data) > 0
        digest = xxhash.xxh3_128_intdigest(data)
        width = height = perceptual = 0
        try:
            width, height, orientation = _read_size(data)
            if self.depth == "pixels":
                perceptual = _perceptual_hash(data, min(width, height), orientation)
            readable = True
        except DecodeError:
            readable = False
        return digest >> 64, digest & 0xFFFFFFFFFFFFFFFF, width, height, perceptual, kind, readable

    def _is_whole(self) -> bool:
        try:
            with self.target.open("rb") as file:
                facts = npy.read_array(file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return False
        return facts.dtype == FACTS and np.array_equal(facts["number"], np.arange(self.start, self.stop, dtype="<u8"))


def load_imagehash() -> Any:
    """The library that hashes how images look; an option needs it, so that not everyone must have it.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import imagehash
    except ImportError as error:
        raise ValueError(
            f"--near-duplicates needs the package imagehash ({error}): pip install imagehash, or leave the option out"
        ) from error
    return imagehash


class _Size(NamedTuple):
    """Upright width and height in pixels, and the orientation (EXIF, 1-8) that the decoded pixels still need."""

    width: int
    height: int
    orientation: int = 1


def _read_size(data: bytes) -> _Size:
    """From the header alone. Raises DecodeError where there is none."""
    if sniff(data) == "npy":
        height, width = read_header(data).shape[:2]
        return _Size(width, height)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of oddities in metadata, and of large images
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                orientation = 1
                if image.format != "TIFF":  # there Pillow itself applies the orientation, to the size as well
                    with suppress(*PILLOW_ERRORS):  # broken metadata is no broken image
                        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except PILLOW_ERRORS as error:
        raise DecodeError("no header of an image") from error
    if width < 1 or height < 1:
        raise DecodeError(f"a header of {width} x {height} pixels")
    if orientation not in range(1, 9):
        orientation = 1
    return _Size(height, width, orientation) if orientation >= 5 else _Size(width, height, orientation)


def _perceptual_hash(data: bytes, short_side: int, orientation: int) -> int:
    """64 bits that change little where an image's look does: its pHash (DCT of 32 x 32 grey values), the first bit the
    highest. Raises DecodeError.
    """
    scale = max(scale for scale in (1, 2, 4, 8) if scale == 1 or short_side // scale >= _HASHED_SIDE)
    pixels = upright(decode(data, scale), orientation)
    if sniff(data) == "npy":
        pixels = _as_grey(pixels)
    bits = load_imagehash().phash(Image.fromarray(np.ascontiguousarray(pixels))).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _as_grey(pixels: Pixels) -> Pixels:
    """An array of any channels and values as grey ones from 0 to 255, its own least and most: (height, width)."""
    check_finite(pixels)
    grey = pixels.mean(-1, dtype=np.float64)
    low, high = grey.min(), grey.max()
    return np.rint((grey - low) * (255 / (high - low or 1))).astype(np.uint8)
