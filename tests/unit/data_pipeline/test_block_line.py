"""The epoch's line against its definition, and that it never holds all of its blocks."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import block_line
from data_pipeline.block_cuts import Cuts
from data_pipeline.block_line import Line
from data_pipeline.randomness import permutation

SHARDS = st.lists(st.integers(1, 60), min_size=1, max_size=12)


def make_cuts(shards: list[int], block_bytes: int) -> Cuts:
    samples = np.asarray(shards)
    return Cuts(samples, samples * 1000, lanes=1, block_bytes=block_bytes)


@settings(max_examples=200)
@given(SHARDS, st.integers(900, 9_000), st.integers(0, 2**63), st.data())
def test_any_stretch_holds_the_blocks_that_lie_there(
    shards: list[int], block_bytes: int, seed: int, data: st.DataObject
):
    cuts = make_cuts(shards, block_bytes)
    blocks = permutation(seed, cuts.count)
    ends = np.cumsum(np.diff(cuts.bounds(0, cuts.count))[blocks])
    borders = sorted(data.draw(st.sets(st.integers(0, cuts.samples), min_size=2, max_size=6)))
    starts, stops = np.asarray(borders[:-1:2]), np.asarray(borders[1::2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_line, "_CHUNK", 7)
        patch.setattr(block_line, "_BLOCKS_A_BIN", 2)
        stretch = Line(cuts, seed).stretch(starts[: len(stops)], stops)
    for start, stop in zip(starts[: len(stops)], stops, strict=True):
        line = np.arange(start, stop)
        expected, found = (np.searchsorted(each, line, side="right") for each in (ends, stretch.ends))
        assert stretch.blocks[found].tolist() == blocks[expected].tolist()
        assert stretch.ends[found].tolist() == ends[expected].tolist()


def test_parts_of_no_length_want_nothing():
    line = Line(make_cuts([50, 50], 1000), seed=3)
    nowhere = line.stretch(np.asarray([0, 7, 100]), np.asarray([0, 5, 100]))
    assert len(nowhere.blocks) == len(nowhere.ends) == 0


def test_memory_does_not_grow_with_the_blocks():
    cuts = Cuts(np.full(500, 10_000), np.full(500, 1_100_000_000), lanes=1, block_bytes=400_000)
    assert cuts.count == 1_375_000
    tracemalloc.start()
    try:
        stretch = Line(cuts, seed=1).stretch(np.asarray([1_000_000]), np.asarray([1_000_100]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 1_000_000 < stretch.ends[-1] < 1_010_000
    assert peak < 4 * cuts.count  # half a number for each block
