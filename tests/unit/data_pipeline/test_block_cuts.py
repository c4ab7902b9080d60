"""Where shards are cut, asked for in both ways."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.block_cuts import Cuts

SHARDS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5000)), min_size=1, max_size=12)


@settings(max_examples=200)
@given(SHARDS, st.integers(1, 12), st.integers(1000, 60_000), st.sets(st.integers(0, 700)), st.data())
def test_starts_and_bounds_are_the_same_numbers(
    shards: list[tuple[int, int]], lanes: int, block_bytes: int, left_out: set[int], data: st.DataObject
):
    samples = np.asarray([count for count, _ in shards])
    sizes = samples * np.asarray([each for _, each in shards])
    absent = np.asarray(sorted(left_out), np.int64)

    def renumber(numbers: np.ndarray) -> np.ndarray:
        return numbers - np.searchsorted(absent, numbers)

    for cuts in (
        Cuts(samples, sizes, lanes, block_bytes),
        Cuts(samples, sizes, lanes, block_bytes, renumber),
    ):
        whole = cuts.bounds(0, cuts.count)
        assert len(whole) == cuts.count + 1
        assert whole[-1] == cuts.samples
        if cuts.count == 0:
            continue
        first = data.draw(st.integers(0, cuts.count - 1))
        last = data.draw(st.integers(first + 1, cuts.count))
        assert cuts.bounds(first, last).tolist() == whole[first : last + 1].tolist()
        some = np.asarray(data.draw(st.lists(st.integers(0, cuts.count), min_size=1)))
        assert cuts.starts(some).tolist() == whole[some].tolist()


def test_a_shard_is_cut_evenly_and_by_the_smaller_of_both_limits():
    samples, sizes = np.asarray([10, 10, 7]), np.asarray([10_000, 2_000, 100])
    by_limit = Cuts(samples, sizes, lanes=1, block_bytes=3_000)
    assert by_limit.bounds(0, by_limit.count).tolist() == [0, 2, 5, 7, 10, 20, 27]
    by_lane = Cuts(samples, sizes, lanes=2, block_bytes=1_000_000)  # an eighth of the bytes is 1,512.5
    assert by_lane.bounds(0, by_lane.count).tolist() == [0, 1, 2, 4, 5, 7, 8, 10, 15, 20, 27]
