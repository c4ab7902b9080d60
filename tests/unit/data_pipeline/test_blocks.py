"""Blocks: every row lies in one, they are those of the order, and it is known whether those under way fit the cache."""

import numpy as np
import pytest

from data_pipeline.blocks import Blocks, bounds_of, fits_cache
from data_pipeline.manifest import Shard, Split
from data_pipeline.order import Plan


def split_of(*shards: tuple[int, int]) -> Split:
    """A split of shards with so many samples and bytes."""
    return Split("png", tuple(Shard(f"{n}.tar", samples, size, "", "", "") for n, (samples, size) in enumerate(shards)))


@pytest.mark.parametrize("plan", [Plan(lanes=1), Plan(lanes=4, block_bytes=1000), Plan(lanes=240)])
def test_blocks_cover_every_row_once_and_never_two_shards(plan: Plan) -> None:
    split = split_of((5, 5000), (1, 90), (17, 30_000), (2, 10))
    bounds = bounds_of(split, plan)
    blocks = Blocks(split, bounds)
    seen = []
    for number in range(len(bounds) - 1):
        rows = blocks.rows(number)
        assert rows.start < rows.stop <= split.shards[rows.shard].samples
        seen += [(rows.shard, row, number) for row in range(rows.start, rows.stop)]
    shards, rows, numbers = np.array(seen).T
    assert [(shard, row) for shard, row, _ in seen] == [
        (shard, row) for shard, described in enumerate(split.shards) for row in range(described.samples)
    ]
    assert blocks.numbers(shards, rows).tolist() == numbers.tolist()
    assert [blocks.number(shard, row) for shard, row, _ in seen] == numbers.tolist()


def test_without_bounds_a_block_has_about_8_mb() -> None:
    blocks = Blocks(split_of((1000, 80_000_000), (10, 1000)))
    assert blocks.rows(0) == (0, 0, 100)
    assert blocks.rows(9) == (0, 900, 1000)
    assert blocks.rows(10) == (1, 0, 10)


def test_bounds_of_another_split_are_refused() -> None:
    with pytest.raises(AssertionError):
        Blocks(split_of((5, 5000)), bounds_of(split_of((6, 5000)), Plan()))


def test_whether_blocks_under_way_fit() -> None:
    large = [split_of(*[(1000, 100_000_000)] * 1000)]  # 100 GB: blocks of 1/13 of a shard
    block = 100_000_000 / 13
    needed = int(240 * block * 1.25 / 0.75) + 1
    assert fits_cache(large, Plan(lanes=240), 1, needed)
    assert not fits_cache(large, Plan(lanes=240), 1, needed - 2)
    assert fits_cache(large, Plan(lanes=240), 8, needed // 8 + 1)
    assert not fits_cache(large, Plan(lanes=240), 7, needed - 2)  # 7 does not divide 240: every rank reads all lanes
    assert not fits_cache(large * 2, Plan(lanes=240, weights=(1, 1)), 1, needed)
    assert not fits_cache(large, Plan(lanes=7680), 1, 4_000_000_000)
