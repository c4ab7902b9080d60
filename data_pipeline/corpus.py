"""The first pass over a source: list its images, learn of each what the options ask for, choose and order them."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from data_pipeline.config import ShardConfig
from data_pipeline.dataset_folder import DatasetFolder
from data_pipeline.decode import DecodeError, read_strictly
from data_pipeline.engines import Engine
from data_pipeline.examine import Depth, ExamineTask, Rules, load_imagehash
from data_pipeline.listing import Listing, Listings, read_listing, write_listing
from data_pipeline.selection import Selection, select
from data_pipeline.shard_content import SplitFormat
from data_pipeline.shard_plan import Plan, Wanted, make_plan, order_file, read_numbers
from data_pipeline.sources import Outline, Source
from launch.console import Console

_LEAST_EXAMINED = 1000
_MOST_FACT_FILES = 100_000


@dataclass(frozen=True)
class Corpus:
    """What the first pass made: the plan, what each split's images are, and the files of what was left out."""

    plan: Plan
    layouts: dict[str, SplitFormat]
    selection: Selection


def rules_of(config: ShardConfig) -> Rules:
    """The options that choose among images."""
    return Rules(
        min_side=config.min_side,
        max_pixels=config.max_pixels,
        max_aspect=config.max_aspect,
        duplicates=config.duplicates,
        near_duplicates=config.near_duplicates,
        holdout=config.holdout,
    )


def list_source(config: ShardConfig, source: Source, outline: Outline, folder: DatasetFolder, console: Console) -> None:
    """Put the listing of the source into the work folder.

    What was made from another listing is removed. A streamed source keeps the copy that it has.

    Raises:
        ValueError, OSError: as the source's.
    """
    before = read_listing(folder.listing)
    if config.streaming and before is not None:
        return
    fresh = folder.work / "relisted"
    shutil.rmtree(fresh, ignore_errors=True)
    with console.progress(None, label="listed") as progress:
        listings = write_listing(fresh, source, outline, config.take, config.labels != "none", progress.advance)
    if before is not None and before.digest != listings.digest:
        folder.forget()
    shutil.rmtree(folder.listing, ignore_errors=True)
    fresh.rename(folder.listing)


def survey(
    config: ShardConfig, source: Source, listings: Listings, *, folder: DatasetFolder, engine: Engine, console: Console
) -> Corpus:
    """Examine every image as the options ask, choose, and plan the shards.

    Raises:
        ValueError: an option that leaves nothing, arrays that are not alike.
        OSError, WorkerDiedError: as their messages say.
    """
    rules = rules_of(config)
    rules.check_splits({split: len(listing) for split, listing in listings.splits.items()})
    if rules.depth == "pixels":
        load_imagehash()
    # How much smaller images become follows from their sizes.
    depth: Depth = "bytes" if rules.depth == "format" and config.short_side is not None else rules.depth
    facts: dict[str, list[Path]] = {split: [] for split in listings.splits}
    tasks = list(_examine_tasks(source, listings, folder.work / "facts", depth))
    (folder.work / "facts").mkdir(exist_ok=True)
    total = sum(len(listing) for listing in listings.splits.values())
    with console.progress(total, label="examined") as progress:
        for _ in engine.run(tasks, progress.advance):
            pass
    for task in tasks:
        facts[task.listing.split].append(task.target)
    work = folder.work / "selection"
    work.mkdir(exist_ok=True)
    selection = select(listings, facts, rules, config.seed, work)
    wanted, layouts = {}, {}
    for split, chosen in selection.splits.items():
        listing = listings.splits[chosen.source_split]
        numbers = order_file(folder.path, split)
        os.replace(chosen.numbers, numbers)
        wanted[split] = Wanted(listing, numbers, _written_bytes(config, listing, numbers, facts[chosen.source_split]))
        layouts[split] = _layout(config, source, listing, numbers, selection.formats[split])
    plan = make_plan(wanted, listings.classes, listings.digest, config.shard_size)
    return Corpus(plan, layouts, selection)


def _examine_tasks(source: Source, listings: Listings, target: Path, depth: Depth) -> Iterator[ExamineTask]:
    for split, listing in listings.splits.items():
        at_once = max(_LEAST_EXAMINED, -(-len(listing) // _MOST_FACT_FILES))
        for start in range(0, len(listing), at_once):
            stop = min(start + at_once, len(listing))
            file = target / f"{split}-{start:012d}.npy"
            yield ExamineTask(source, listing, start, stop, file, depth)


def _written_bytes(config: ShardConfig, listing: Listing, order: Path, facts: list[Path]) -> int:
    """Bytes of the chosen images once written, about: those that are encoded smaller shrink as their area does."""
    numbers = read_numbers(order)
    sizes = listing.records()["size"]
    size = sum(int(sizes[np.sort(numbers[start : start + 100_000])].sum()) for start in range(0, len(numbers), 100_000))
    if config.short_side is None:
        return size
    before = after = 1
    for path in facts:
        found = np.load(path, mmap_mode="r")
        width, height = (found[name].astype(np.int64) for name in ("width", "height"))
        short = np.maximum(np.minimum(width, height), 1)
        before += int((width * height).sum())
        after += int((width * height * np.minimum(1, (config.short_side / short) ** 2)).sum())
    return max(1, size * after // before)


def _layout(config: ShardConfig, source: Source, listing: Listing, order: Path, formats: Counter[str]) -> SplitFormat:
    """What most of a split's images are decides; arrays must all be as the first that can be read."""
    if 2 * formats["npy"] < formats.total() or not formats["npy"]:
        jpg = config.short_side is not None or 2 * formats["jpg"] >= formats.total()
        return SplitFormat("jpg" if jpg else "png")
    for number in np.sort(np.asarray(read_numbers(order)[:1000])):
        data = source.read(listing.split, listing.entry(int(number)))
        if data.startswith(npy_format.MAGIC_PREFIX):
            try:
                facts, _ = read_strictly(data)
            except DecodeError:
                continue
            return SplitFormat("npy", facts.channels, facts.dtype)
    raise ValueError(
        f"{listing.split}: most of its images are .npy arrays, and none of the first 1,000 can be read; expected "
        "(height, width) or (height, width, channels) of uint8, uint16 or float32"
    )
