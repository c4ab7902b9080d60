"""What a shard's samples come to: each checked, adapted to its split and written, and the sums over all of them."""

import json
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from data_pipeline.decode import DecodeError, ImageFacts, read_strictly, to_png
from data_pipeline.manifest import INDEX_DTYPE, NO_LABEL
from data_pipeline.reencode import shrink
from data_pipeline.sources import Entry
from data_pipeline.tar_writer import TarWriter

_VALUES = np.arange(256, dtype=np.int64)


class SplitFormat(NamedTuple):
    """What all images of a split are: their extension, channels and type of values; arrays are `npy`."""

    extension: str
    channels: int = 3
    dtype: str = "uint8"


class Encoding(NamedTuple):
    """Images with a longer short side than this (pixels) become JPEGs of that side and quality; None keeps all."""

    short_side: int | None = None
    quality: int = 90


class Span(NamedTuple):
    """Where a sample lies in its tar: it and its image, in bytes from the start."""

    offset: int
    length: int
    image_offset: int
    image_length: int


@dataclass
class Sums:
    """Sums over the pixels of images: their number, and of each channel's values and squares.

    Integers, except of float images: exact, so that the order in which shards are added does not matter.
    """

    pixels: int
    values: list[float]
    squares: list[float]

    def add(self, pixels: np.ndarray) -> None:
        """Add an image, (height, width, channels)."""
        self.pixels += pixels.shape[0] * pixels.shape[1]
        values, squares = _sums(pixels)
        self.values = [a + b for a, b in zip(self.values, values, strict=True)]
        self.squares = [a + b for a, b in zip(self.squares, squares, strict=True)]


class ShardContent:
    """The samples of a shard that is being written."""

    def __init__(self, layout: SplitFormat, encoding: Encoding) -> None:
        self._layout = layout
        self._encoding = encoding
        self._rows: list[tuple[int, ...]] = []
        self._names: list[str] = []
        self.quarantined: list[tuple[str, str]] = []
        self.foreign = self.converted = self.shrunk = 0
        self.labels: Counter[int] = Counter()
        self.sums = Sums(0, [0] * layout.channels, [0] * layout.channels)
        self.smallest, self.largest = (2**31, 2**31), (0, 0)

    def add(
        self, tar: TarWriter, prefix: str, place: int, *, entry: Entry, data: bytes, annotations: dict[str, Any] | None
    ) -> None:
        """Write a sample; or, if its image is broken or does not belong in the split, put it on the list of those.

        Its key is made of `prefix` and the number `place`. `annotations` go into a .json, None for no such member.
        """
        key = f"{prefix}-{place:09d}"
        try:
            facts, pixels = read_strictly(data)
            self.check(facts)
            data, facts, pixels = self._adapt(data, facts, pixels)
        except DecodeError as error:
            self.leave_out(entry, str(error))
            return
        members = [] if entry.label == NO_LABEL else [("cls", str(entry.label).encode())]
        if annotations is not None:
            members.append(("json", json.dumps(annotations, sort_keys=True).encode()))
        offset = tar.position
        image_offset = tar.add(f"{key}.{self._layout.extension}", data)
        annotation_hash = xxhash.xxh3_64()
        for extension, content in members:
            tar.add(f"{key}.{extension}", content)
            annotation_hash.update(content)
        span = Span(offset, tar.position - offset, image_offset, len(data))
        hashes = xxhash.xxh3_64_intdigest(data), annotation_hash.intdigest()
        self.count(span, entry, facts, pixels, hashes=hashes, place=place)

    def count(
        self,
        span: Span,
        entry: Entry,
        facts: ImageFacts,
        pixels: np.ndarray,
        *,
        hashes: tuple[int, int],
        place: int,
    ) -> None:
        """Take a sample that lies in the tar into the index and the sums; `hashes` are of image and annotations."""
        sizes = (facts.width, facts.height)
        self._rows.append((*span, *hashes, entry.label, *sizes, facts.orientation, place))
        self._names.append(entry.name)
        self.sums.add(pixels)
        self.labels[entry.label] += entry.label != NO_LABEL
        self.smallest = (min(self.smallest[0], sizes[0]), min(self.smallest[1], sizes[1]))
        self.largest = (max(self.largest[0], sizes[0]), max(self.largest[1], sizes[1]))

    def leave_out(self, entry: Entry, reason: str) -> None:
        """Put a sample on the list of those that are not written."""
        self.quarantined.append((entry.name, reason))

    def index(self) -> NDArray[np.void]:
        """One row a sample, in the order of the tar."""
        return np.array(self._rows, INDEX_DTYPE)

    def names(self) -> bytes:
        """One name a line; a line break in a name is written as \\n."""
        return b"".join(os.fsencode(name.replace("\n", "\\n")) + b"\n" for name in self._names)

    def check(self, facts: ImageFacts) -> None:
        """Raises DecodeError for an image that is not as the split's others are."""
        array = facts.extension == "npy"
        if array != (self._layout.extension == "npy"):
            raise DecodeError("an array among pictures" if array else "a picture among arrays")
        found = (facts.channels, facts.dtype)
        if array and found != self._layout[1:]:
            raise DecodeError(
                f"{facts.channels} channels of {facts.dtype}, the split has {self._layout.channels} of "
                f"{self._layout.dtype}"
            )

    def _adapt(self, data: bytes, facts: ImageFacts, pixels: np.ndarray) -> tuple[bytes, ImageFacts, np.ndarray]:
        if facts.extension == "npy":
            return data, facts, pixels
        short_side, quality = self._encoding
        shrunk = None if short_side is None else shrink(pixels, short_side, quality)
        if shrunk is not None:
            self.shrunk += 1
            return shrunk[0], *read_strictly(shrunk[0])
        if facts.extension == self._layout.extension:
            return data, facts, pixels
        if self._layout.extension == "png":
            self.converted += 1
            # The pixels are upright already.
            return to_png(pixels), facts._replace(extension="png", orientation=1), pixels
        self.foreign += 1  # nothing can be encoded as JPEG without loss; readers look at the bytes, not at the name
        return data, facts, pixels


def _sums(pixels: np.ndarray) -> tuple[list[float], list[float]]:
    """Of each channel the sum of its values and of their squares."""
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        counts = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).histogram(), np.int64).reshape(3, 256)
        return (counts @ _VALUES).tolist(), (counts @ _VALUES**2).tolist()
    wide = pixels.reshape(-1, pixels.shape[2]).astype(np.uint64 if pixels.dtype.kind == "u" else np.float64)
    return wide.sum(0).tolist(), (wide * wide).sum(0).tolist()
