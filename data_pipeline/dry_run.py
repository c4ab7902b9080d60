"""`--dry-run`: what a dataset would come to, by its listing and one image in a hundred; writes nothing to --out."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.config import ShardConfig
from data_pipeline.decode import DecodeError, read_strictly
from data_pipeline.listing import Listing, write_listing
from data_pipeline.manifest import INDEX_DTYPE
from data_pipeline.open_source import open_source
from data_pipeline.reencode import shrink
from data_pipeline.shard_plan import number_of_shards
from data_pipeline.sources import MissingImageError, Source
from launch.console import Console, format_duration

_ONE_IN = 100
_LEAST = 64  # images of a split that are read, where it has as many
_BLOCK = 512
_ORDER_BYTES = 8


class _Estimate(NamedTuple):
    """Of one split: bytes of the images as stored and in the tars, and seconds that one process would work."""

    images: int
    source_bytes: int
    tar_bytes: int
    shards: int
    seconds: float


@dataclass
class _Sample:
    """What the images that were read come to."""

    read: int = 0
    broken: int = 0
    source_bytes: int = 0
    tar_bytes: int = 0
    read_seconds: float = 0.0
    work_seconds: float = 0.0


def estimate(config: ShardConfig, console: Console) -> None:
    """Print images, bytes, shards and minutes, split by split, and what object stores bill by.

    Raises:
        ValueError, OSError: as the source's.
    """
    with tempfile.TemporaryDirectory(prefix="sherd-dry-run-") as scratch:
        source = open_source(config, Path(scratch) / "spool")
        outline = source.outline()
        began = time.monotonic()
        with console.progress(None, label="listed") as progress:
            listings = write_listing(
                Path(scratch) / "listing", source, outline, config.take, config.labels != "none", progress.advance
            )
        listed_seconds = time.monotonic() - began
        console.say(outline.description)
        for note in (*outline.notes, *listings.notes):
            console.say(f"  {note}")
        estimates, broken, read = {}, 0, 0
        for split, listing in listings.splits.items():
            sample = _read_sample(config, source, listing, console)
            broken, read = broken + sample.broken, read + sample.read
            estimates[split] = _scale(config, listing, sample)
        _say(config, estimates, listed_seconds, console)
        if broken:
            console.say(f"{broken:,} of the {read:,} images that were read are broken: they would be left out")


def _read_sample(config: ShardConfig, source: Source, listing: Listing, console: Console) -> _Sample:
    count = min(len(listing), max(_LEAST, len(listing) // _ONE_IN))
    sample = _Sample()
    with console.progress(count, label=f"read of {listing.split}") as progress:
        for number in np.linspace(0, len(listing) - 1, count).astype(np.int64):
            entry = listing.entry(int(number))
            began = time.perf_counter()
            sample.read += 1
            progress.advance(1)
            try:
                data = source.read(listing.split, entry)
            except MissingImageError:
                sample.broken += 1
                continue
            finally:
                sample.read_seconds += time.perf_counter() - began
            sample.source_bytes += len(data)
            began = time.perf_counter()
            try:
                facts, pixels = read_strictly(data)
                if config.short_side is not None and facts.extension != "npy":
                    shrunk = shrink(pixels, config.short_side, config.quality)
                    data = data if shrunk is None else shrunk[0]
                sample.tar_bytes += _member(len(data)) + (_member(1) if entry.label >= 0 else 0)
            except DecodeError:
                sample.broken += 1
            sample.work_seconds += time.perf_counter() - began
    return sample


def _scale(config: ShardConfig, listing: Listing, sample: _Sample) -> _Estimate:
    def whole(value: float) -> int:
        return round(value * len(listing) / sample.read)

    image_bytes = whole(sample.tar_bytes) if config.short_side is not None else listing.size
    # Every image is read twice: to learn what it is, and to write it; decoded and perhaps encoded once.
    seconds = (2 * sample.read_seconds + sample.work_seconds) * len(listing) / sample.read
    shards = number_of_shards(len(listing), image_bytes, config.shard_size)
    return _Estimate(len(listing), whole(sample.source_bytes), whole(sample.tar_bytes), shards, seconds)


def _say(config: ShardConfig, estimates: dict[str, _Estimate], listed_seconds: float, console: Console) -> None:
    rows = [("split", "images", "bytes of the source", "bytes in tars", "shards")]
    rows += [
        (split, f"{e.images:,}", f"{e.source_bytes:,}", f"{e.tar_bytes:,}", f"{e.shards:,}")
        for split, e in estimates.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        console.say("  ".join(cells).rstrip())
    images = sum(e.images for e in estimates.values())
    shards = sum(e.shards for e in estimates.values())
    read = 2 * sum(e.source_bytes for e in estimates.values())
    written = sum(e.tar_bytes for e in estimates.values())
    index = images * (INDEX_DTYPE.itemsize + _ORDER_BYTES)
    seconds = listed_seconds + sum(e.seconds for e in estimates.values()) / config.processes
    console.say(f"time: about {format_duration(seconds)} with {config.processes} processes of this machine")
    console.say(f"to be read from the source: {read:,} bytes, every image twice")
    console.say(f"to be stored: {written:,} bytes of tars, {index:,} of indexes, in {3 * shards + 3:,} files")
    console.say(f"to be read in an epoch of training: {written:,} bytes")
    console.say("duplicates, filters and held-out images are not counted; nothing was written")


def _member(size: int) -> int:
    return _BLOCK + -(-size // _BLOCK) * _BLOCK
