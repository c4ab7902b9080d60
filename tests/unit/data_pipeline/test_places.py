"""Samples with several places: each place once an epoch, its copies told apart and spread, whatever else holds too."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import block_line
from data_pipeline import order as order_module
from data_pipeline.order import Order, Plan, rank_positions
from data_pipeline.places import Places

SHARDS = st.lists(st.integers(1, 40), min_size=1, max_size=8)
LANES = st.sampled_from([1, 2, 6, 12, 60, 240])


def make_order(shards: list[int], lanes: int, members: np.ndarray, views: int = 1, **options: Any) -> Order:
    plan = Plan(lanes=lanes, views=views, block_bytes=8_000)
    sizes = [count * 1000 for count in shards]
    return Order(
        shards, sizes, fingerprint="5e" * 32, plan=plan, seed=options.pop("seed", 0), members=members, **options
    )


def draw_members(data: st.DataObject, samples: int) -> np.ndarray:
    """A few samples, up to nine times each."""
    copies = data.draw(st.dictionaries(st.integers(0, samples - 1), st.integers(1, 9), min_size=1, max_size=30))
    return np.repeat(sorted(copies), [copies[sample] for sample in sorted(copies)]).astype(np.int64)


@settings(max_examples=80)
@given(SHARDS, LANES, st.integers(1, 3), st.integers(0, 2), st.data())
def test_every_place_exactly_once_a_view_an_epoch(
    shards: list[int], lanes: int, views: int, epoch: int, data: st.DataObject
):
    members = draw_members(data, sum(shards))
    withdrawn = sorted(data.draw(st.sets(st.sampled_from(members.tolist()), max_size=len(set(members.tolist())) - 1)))
    order = make_order(shards, lanes, members, views, withdrawn=withdrawn)
    start = epoch * order.epoch_positions
    located = order.locate(np.arange(start, start + order.epoch_positions))
    copies = np.bincount(members, minlength=sum(shards))
    copies[withdrawn] = 0
    expected = [(sample, view) for sample in range(sum(shards)) for view in range(copies[sample] * views)]
    assert sorted(zip(located.sample.tolist(), located.view.tolist(), strict=True)) == expected
    assert set(located.epoch) == {epoch}
    assert order.samples == copies.sum()
    assert order.has_copies == bool(copies.max() > 1)


@settings(max_examples=30)
@given(SHARDS, LANES, st.integers(1, 8), st.integers(1, 9), st.data())
def test_ranks_together_see_the_same_batches_from_any_step(
    shards: list[int], lanes: int, world: int, rows: int, data: st.DataObject
):
    members, batch = draw_members(data, sum(shards)), world * rows
    start = batch * data.draw(st.integers(0, 40))
    order = make_order(shards, lanes, members)
    order.locate(np.arange(start))  # a long history must leave no trace
    whole = order.locate(np.arange(start, start + batch))
    joined = np.empty((2, batch), np.int64)
    for rank in range(world):
        positions = rank_positions(start, batch, rank, world)
        own = make_order(shards, lanes, members).locate(positions)
        joined[:, positions - start] = own.sample, own.view
    assert joined.tolist() == [whole.sample.tolist(), whole.view.tolist()]


@settings(max_examples=40)
@given(SHARDS, LANES, st.integers(1, 9), st.data())
def test_how_many_blocks_are_sorted_at_a_time_changes_nothing(
    shards: list[int], lanes: int, at_a_time: int, data: st.DataObject
):
    members = draw_members(data, sum(shards))
    span = np.arange(2 * len(members))
    expected = make_order(shards, lanes, members).locate(span).sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "_BLOCKS_AT_A_TIME", at_a_time)
        patch.setattr(block_line, "_BLOCKS_A_BIN", 1)
        assert make_order(shards, lanes, members).locate(span).sample.tolist() == expected.tolist()


@settings(max_examples=100)
@given(SHARDS, LANES, st.data())
def test_each_member_once_is_the_order_of_a_subset(shards: list[int], lanes: int, data: st.DataObject):
    members = np.unique(draw_members(data, sum(shards)))
    found = Places(
        np.asarray(shards), 1000 * np.asarray(shards), lanes=lanes, block_bytes=8000, members=members, withdrawn=()
    )
    samples, copies = found.look_up(np.arange(found.count))
    assert samples.tolist() == members.tolist()
    assert not copies.any()
    assert not found.has_copies


def test_blocks_of_a_pass_are_those_of_the_shards():
    """So that what is read as one block from a store is one in the order."""
    shards, sizes = np.asarray([40, 40, 25]), 1000 * np.asarray([40, 40, 25])
    options: dict[str, Any] = {"lanes": 6, "block_bytes": 8_000, "withdrawn": ()}
    plain = Places(shards, sizes, members=None, **options).cuts
    members = np.sort(np.concatenate([np.arange(105), np.arange(80), np.arange(80)]))
    found = Places(shards, sizes, members=members, **options)
    bounds = plain.bounds(0, plain.count).tolist()
    of_two_shards = bounds.index(80)
    assert found.cuts.count == plain.count + 2 * of_two_shards  # the other passes have nothing of the last shard
    for first, last in zip(*(found.cuts.starts(np.arange(found.cuts.count) + each) for each in (0, 1)), strict=True):
        samples, copies = found.look_up(np.arange(first, last))
        assert (samples[0], samples[-1] + 1) in list(pairwise(bounds))
        assert len(set(copies.tolist())) == 1


def test_copies_are_spread_over_the_epoch_and_over_batches():
    """One image of 1,200 stands for a whole class: it comes a hundred times, as evenly as different images would."""
    members = np.sort(np.append(np.arange(1200), np.full(1099, 700)))
    order = make_order([300] * 4, 60, members)
    shown = order.locate(np.arange(order.epoch_positions)).sample == 700
    assert shown.sum() == 1100
    by_batch = shown[:2288].reshape(-1, 22).sum(1)  # 10.5 expected in each, with a deviation of 2.3 if drawn at random
    assert by_batch.min() >= 2
    assert by_batch.max() <= 19
    by_tenth = shown[:2290].reshape(10, -1).sum(1)
    assert by_tenth.min() >= 85
    assert by_tenth.max() <= 135


def test_the_order_of_copies_never_changes():
    """Frozen: a run begun with one version of sherd must be resumed by the next. A change needs a new ORDER_VERSION."""
    located = make_order([5, 4, 3], 4, np.asarray([0, 2, 2, 2, 5, 9, 9, 11]), views=2, seed=11).locate(np.arange(16))
    assert located.sample.tolist() == [5, 2, 9, 2, 5, 2, 9, 2, 2, 11, 9, 0, 2, 11, 9, 0]
    assert located.view.tolist() == [0, 4, 0, 2, 1, 5, 1, 3, 0, 0, 2, 0, 1, 1, 3, 1]
