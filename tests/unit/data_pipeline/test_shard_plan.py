"""Which sample goes into which shard: complete, even, shuffled, and the same for ever."""

import numpy as np
import pytest

from data_pipeline.shard_plan import make_plan, number_of_shards, shuffle
from data_pipeline.sources import Contents, Listing


def listing(count: int, size: int = 100) -> Listing:
    names = [f"class/{number}.jpg" for number in range(count)]
    return Listing(names, np.zeros(count, np.int64), np.full(count, size))


def contents(count: int, size: int = 100) -> Contents:
    return Contents({"train": listing(count, size)}, ("class",), "test", (), {})


@pytest.mark.parametrize(
    ("samples", "size", "shard_size", "expected"),
    [(10, 50, 100, 1), (10, 101, 100, 2), (5_000, 50, 100, 5), (90_000, 50, 100, 16), (3, 1000, 1, 3), (90, 0, 9, 1)],
)
def test_number_of_shards(samples: int, size: int, shard_size: int, expected: int) -> None:
    assert number_of_shards(samples, size, shard_size) == expected


def test_every_sample_is_in_one_shard_and_counts_differ_by_one() -> None:
    plan = make_plan(contents(1003), seed=0, shard_size=10_000)
    shards = [plan.splits[0].entries(number) for number in range(plan.splits[0].shards)]
    assert {len(entries) for entries in shards} == {91, 92}
    assert sorted(entry.number for entries in shards for entry in entries) == list(range(1003))
    assert sum(plan.splits[0].size(number) for number in range(len(shards))) == 100_300


def test_the_order_is_shuffled_and_fixed() -> None:
    order = shuffle(listing(8), seed=0)
    assert order.tolist() == [6, 3, 4, 5, 0, 2, 1, 7]  # pinned: another order would be another dataset
    assert list(order) != list(shuffle(listing(8), seed=1))
    many = shuffle(listing(10_000), seed=0)
    assert abs(np.corrcoef(many, np.arange(10_000))[0, 1]) < 0.05


def test_the_digest_stands_for_all_that_matters() -> None:
    digests = {
        make_plan(contents(count, size), seed, shard_size).digest
        for count in (99, 100)
        for size in (100, 101)
        for seed in (0, 1)
        for shard_size in (1000, 100_000)
    }
    assert len(digests) == 16


def test_split_names_with_dots_make_keys_without() -> None:
    plan = make_plan(Contents({"train.clean": listing(3)}, None, "test", (), {}), 0, 100)
    assert plan.splits[0].names(1).file == "train_clean-000001.tar"
