"""Reading alone: from tars to the bytes of images, in one process, nothing decoded. Each yields images an once over."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

Pass = Callable[[], tuple[int, int]]
"""Reads everything once; returns how many images and bytes of them it was."""


def webdataset(folder: Path) -> Pass:
    """webdataset's iterator over tars, one shard after another: not even shuffled."""
    from webdataset import WebDataset  # type: ignore[attr-defined]

    urls = sorted(map(str, folder.glob("*.tar")))

    def read() -> tuple[int, int]:
        sizes = [len(sample["jpg"]) for sample in WebDataset(urls, shardshuffle=False)]
        return len(sizes), sum(sizes)

    return read


def sherd(folder: Path) -> Pass:
    """Ours, block by block in random order, and in a block sample by sample in random order; each sample verified."""
    from data_pipeline.blocks import bounds_of
    from data_pipeline.manifest import locate_sample, read_manifest, sample_starts
    from data_pipeline.order import Plan
    from data_pipeline.storage import ShardReader

    manifest = read_manifest(folder)
    split = manifest.split("train")
    bounds, starts = bounds_of(split, Plan()), sample_starts(split)
    sizes = np.diff(bounds)
    reader = ShardReader(manifest, split)
    random = np.random.default_rng(0)

    def read() -> tuple[int, int]:
        images = size = 0
        for block in random.permutation(len(sizes)):
            shards, rows = locate_sample(starts, bounds[block] + random.permutation(int(sizes[block])))
            found, _ = reader.images(int(shards[0]), rows)
            images += len(found)
            size += sum(map(len, found))
        return images, size

    return read
