"""Properties of the order: exactly once, elastic, resumable, for any sizes."""

import tracemalloc
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import block_line
from data_pipeline import order as order_module
from data_pipeline.order import Mixture, Order, Plan, block_bounds, lanes_for, rank_positions, subset_hash

FINGERPRINT = "5e" * 32
SHARDS = st.lists(st.integers(1, 60), min_size=1, max_size=12)
LANES = st.sampled_from([1, 2, 4, 6, 12, 60, 240])


def make_order(
    shards: list[int], lanes: int, seed: int = 0, views: int = 1, bytes_each: int = 1000, **options
) -> Order:
    plan = Plan(lanes=lanes, views=views, block_bytes=options.pop("block_bytes", 8_000))
    sizes = [count * bytes_each for count in shards]
    return Order(shards, sizes, fingerprint=FINGERPRINT, plan=plan, seed=seed, **options)


@settings(max_examples=300)
@given(SHARDS, LANES, st.integers(0, 3), st.integers(1, 3), st.integers(0, 2**62))
def test_every_sample_exactly_once_a_view_an_epoch(shards: list[int], lanes: int, epoch: int, views: int, seed: int):
    order = make_order(shards, lanes, seed, views)
    start = epoch * order.epoch_positions
    located = order.locate(np.arange(start, start + order.epoch_positions))
    assert set(located.epoch) == {epoch}
    pairs = sorted(zip(located.sample.tolist(), located.view.tolist(), strict=True))
    assert pairs == [(sample, view) for sample in range(sum(shards)) for view in range(views)]


@settings(max_examples=150)
@given(SHARDS, LANES, st.integers(1, 8), st.integers(1, 9), st.data())
def test_ranks_together_see_the_same_batches(shards: list[int], lanes: int, world: int, rows: int, data: st.DataObject):
    batch, seed = world * rows, data.draw(st.integers(0, 99))
    order = make_order(shards, lanes, seed)
    start = batch * data.draw(st.integers(0, 400))
    whole = order.locate(np.arange(start, start + 3 * batch)).sample
    for step in range(3):
        joined = np.empty(batch, np.int64)
        for rank in range(world):
            positions = rank_positions(start + step * batch, batch, rank, world)
            assert len(positions) == rows
            own = make_order(shards, lanes, seed)  # every rank has its own, with another history
            joined[positions - start - step * batch] = own.locate(positions).sample
        assert joined.tolist() == whole[step * batch : (step + 1) * batch].tolist()


@settings(max_examples=100)
@given(SHARDS, LANES, st.integers(0, 5000), st.integers(1, 50))
def test_any_position_is_found_without_those_before_it(shards: list[int], lanes: int, position: int, count: int):
    order = make_order(shards, lanes)
    order.locate(np.arange(position))  # a long history must leave no trace
    fresh = make_order(shards, lanes)
    span = np.arange(position, position + count)
    assert order.locate(span).sample.tolist() == fresh.locate(span).sample.tolist()
    assert fresh.locate(span[::-1]).sample.tolist() == order.locate(span).sample.tolist()[::-1]


@settings(max_examples=100)
@given(SHARDS, LANES, st.data())
def test_a_subset_runs_through_its_members_only(shards: list[int], lanes: int, data: st.DataObject):
    members = np.asarray(sorted(data.draw(st.sets(st.integers(0, sum(shards) - 1), min_size=1))), np.int64)
    order = make_order(shards, lanes, members=members)
    for epoch in range(2):
        span = np.arange(epoch * len(members), (epoch + 1) * len(members))
        assert sorted(order.locate(span).sample.tolist()) == members.tolist()


@settings(max_examples=40)
@given(st.lists(st.tuples(SHARDS, st.integers(1, 4)), min_size=2, max_size=3), LANES, st.integers(0, 9))
def test_a_mixture_is_its_datasets_own_orders_interleaved(parts: list, lanes: int, first_row: int):
    weights = tuple(weight for _, weight in parts)
    plan = Plan(lanes=lanes, weights=weights, block_bytes=8_000)
    orders = [
        Order(shards, [1000 * count for count in shards], fingerprint=f"{number:064x}", plan=plan, seed=1)
        for number, (shards, _) in enumerate(parts)
    ]
    rows = first_row + 3 * sum(weights)
    located = Mixture(orders, plan).locate(np.arange(rows * lanes))
    for number, order in enumerate(orders):
        own = located.sample[located.dataset == number]
        assert own.tolist() == order.locate(np.arange(len(own))).sample.tolist()
    periods = located.dataset[: rows // sum(weights) * sum(weights) * lanes].reshape(-1, sum(weights) * lanes)
    assert all(np.bincount(period).tolist() == [weight * lanes for weight in weights] for period in periods)


@settings(max_examples=200)
@given(SHARDS, LANES, st.integers(1, 50_000), st.integers(1, 5000))
def test_blocks_lie_in_one_shard_and_differ_by_one(shards: list[int], lanes: int, block_bytes: int, bytes_each: int):
    sizes = np.asarray(shards) * bytes_each
    bounds = block_bounds(np.asarray(shards), sizes, Plan(lanes=lanes, block_bytes=block_bytes))
    shard_ends = np.cumsum(shards)
    assert set(shard_ends) <= set(bounds.tolist())
    target = min(Fraction(block_bytes), Fraction(int(sizes.sum()), 4 * lanes))
    for end, count, size in zip(shard_ends, shards, sizes, strict=True):
        inside = bounds[(bounds >= end - count) & (bounds <= end)]
        counts = np.diff(inside)
        assert counts.min() >= 1
        assert counts.max() - counts.min() <= 1
        assert len(counts) == min(count, ceil(int(size) / target))


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 16])
def test_a_rank_reads_only_its_own_lanes_where_the_world_divides_them(world: int):
    order = make_order([500, 300, 207], 240)
    lanes_of_rank = []
    for rank in range(world):
        positions = rank_positions(2 * order.epoch_positions, order.epoch_positions, rank, world)
        within = positions - 2 * order.epoch_positions
        lanes_of_rank.append(set((within % 240).tolist()))
    assert sum(map(len, lanes_of_rank)) == len(set.union(*lanes_of_rank)) == 240


def test_the_order_never_changes():
    """Frozen: a run begun with one version of sherd must be resumed by the next. A change needs a new ORDER_VERSION."""
    order = make_order([10, 7, 4], 6, seed=11)
    expected = [6, 3, 2, 18, 15, 19, 11, 4, 1, 7, 0, 13, 16, 8, 17, 20, 5, 14, 10, 9, 12]
    assert order.locate(np.arange(21, 42)).sample.tolist() == expected


def test_the_order_of_a_billion_never_changes_and_needs_memory_for_shards_only():
    """Frozen, too; the values are of the first version, which sorted all of an epoch's 13.8 million blocks."""
    order = make_order([10_000] * 100_000, 7680, bytes_each=110_000, block_bytes=8_000_000)
    assert order.blocks == 13_800_000
    tracemalloc.start()
    try:
        end_of_an_epoch = order.locate(np.arange(999_999_996, 1_000_000_000))
        later = order.locate(np.arange(123_456_789_012, 123_456_789_027, 3))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (end_of_an_epoch.epoch.tolist(), later.epoch.tolist()) == ([0] * 4, [123] * 5)
    assert end_of_an_epoch.sample.tolist() == [421578408, 788001320, 58861915, 117866165]
    assert later.sample.tolist() == [142796829, 885419388, 487180296, 553282851, 690531721]
    assert peak < 110_400_000  # a number for each block


@settings(max_examples=60)
@given(
    SHARDS.filter(lambda shards: sum(shards) > 1), LANES, st.sampled_from(["all", "members", "withdrawn"]), st.data()
)
def test_how_many_blocks_are_sorted_at_a_time_changes_nothing(
    shards: list[int], lanes: int, which: str, data: st.DataObject
):
    views, at_a_time = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    few = data.draw(st.sets(st.integers(0, sum(shards) - 1), min_size=1, max_size=sum(shards) - 1))
    chosen: dict[str, Any] = {} if which == "all" else {which: np.asarray(sorted(few), np.int64)}
    order = make_order(shards, lanes, views=views, bytes_each=5000, **chosen)
    span = np.arange(3 * order.epoch_positions)
    expected = order.locate(span).sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "_BLOCKS_AT_A_TIME", at_a_time)
        patch.setattr(block_line, "_BLOCKS_A_BIN", 1)
        some_at_a_time = make_order(shards, lanes, views=views, bytes_each=5000, **chosen)
        assert some_at_a_time.locate(span).sample.tolist() == expected.tolist()
        start = data.draw(st.integers(0, len(span) - 1))
        assert some_at_a_time.locate(span[start : start + 9]).sample.tolist() == expected[start : start + 9].tolist()


def test_epochs_and_seeds_differ_and_shuffle_well():
    order = make_order([1000] * 10, 240)
    one, two = order.locate(np.arange(10_000)).sample, order.locate(np.arange(10_000, 20_000)).sample
    other = make_order([1000] * 10, 240, seed=1).locate(np.arange(10_000)).sample
    for a, b in ((one, two), (one, other), (one, np.arange(10_000))):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.05
        assert np.mean(a == b) < 0.001
    in_a_batch = [len(set((one[start : start + 250] // 1000).tolist())) for start in range(0, 10_000, 250)]
    assert min(in_a_batch) >= 9  # a batch of 250 sees at least 9 of the 10 shards


def test_more_lanes_than_samples_and_a_single_sample():
    assert sorted(make_order([3], 240).locate(np.arange(3)).sample) == [0, 1, 2]
    assert make_order([1], 240).locate(np.arange(5)).sample.tolist() == [0] * 5
    assert make_order([1], 240).locate(np.arange(5)).epoch.tolist() == [0, 1, 2, 3, 4]


def test_views_of_a_sample_lie_one_row_of_lanes_apart():
    order = make_order([24], 12, views=3)
    located = order.locate(np.arange(72))
    assert located.sample[:12].tolist() == located.sample[12:24].tolist() == located.sample[24:36].tolist()
    assert located.view[:36].tolist() == [0] * 12 + [1] * 12 + [2] * 12


def test_wrong_plans_and_subsets_say_what_is_expected():
    with pytest.raises(ValueError, match="lanes is 0, expected at least 1"):
        Plan(lanes=0)
    with pytest.raises(ValueError, match=r"weights are \(0,\)"):
        Plan(weights=(0,))
    with pytest.raises(ValueError, match="order version 2, this sherd draws version 1"):
        Plan(version=2)
    for wrong in ([2, 1], [-1, 2], [2, 5]):
        with pytest.raises(ValueError, match="subset: expected sample numbers from 0 to 4, none below the one before"):
            make_order([5], 2, members=np.asarray(wrong))
    with pytest.raises(ValueError, match="holds no samples"):
        make_order([5], 2, members=np.asarray([], np.int64))
    with pytest.raises(ValueError, match="--max-world 513"):
        lanes_for(513)
    assert lanes_for(16) == 240
    assert lanes_for(17) == 7680
    assert subset_hash(np.arange(3)) != subset_hash(np.arange(4))
