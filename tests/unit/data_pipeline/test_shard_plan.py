"""Which sample goes into which shard: complete, even, and the same for ever."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.listing import Listing, write_listing
from data_pipeline.shard_plan import Plan, Wanted, make_plan, number_of_shards
from data_pipeline.sources import Found, Outline


class Named:
    """A source of so many names; its images cannot be read."""

    def __init__(self, split: str, count: int, size: int) -> None:
        self._found = (split, count, size)

    def images(self) -> Iterator[Found]:
        split, count, size = self._found
        return (Found(split, f"class/{number}.jpg", "class", size) for number in range(count))


def listing(folder: Path, split: str, count: int, size: int) -> tuple[Listing, str]:
    source = Named(split, count, size)
    listings = write_listing(folder, source, Outline(None, "test"), None, True, lambda _: None)  # type: ignore[arg-type]
    return listings.splits[split], listings.digest


def plan_of(folder: Path, count: int, size: int = 100, *, shard_size: int = 1000, split: str = "train") -> Plan:
    """A plan of so many images of a size in bytes, in reversed order."""
    folder.mkdir(exist_ok=True)
    listed, digest = listing(folder / "listing", split, count, size)
    np.save(folder / "order.npy", np.arange(count, dtype=np.int64)[::-1])
    wanted = {split: Wanted(listed, folder / "order.npy", listed.size)}
    return make_plan(wanted, ("class",), digest, shard_size)


@pytest.mark.parametrize(
    ("samples", "size", "shard_size", "expected"),
    [(10, 50, 100, 1), (10, 101, 100, 2), (5_000, 50, 100, 5), (90_000, 50, 100, 16), (3, 1000, 1, 3), (90, 0, 9, 1)],
)
def test_number_of_shards(samples: int, size: int, shard_size: int, expected: int) -> None:
    assert number_of_shards(samples, size, shard_size) == expected


def test_every_sample_is_in_one_shard_and_counts_differ_by_one(tmp_path: Path) -> None:
    (split,) = plan_of(tmp_path, 1003, shard_size=10_000).splits
    shards = [list(split.entries(number)) for number in range(split.shards)]
    assert {len(entries) for entries in shards} == {91, 92}
    names = [entry.name for entries in shards for entry in entries]
    assert names == [f"class/{number}.jpg" for number in reversed(range(1003))]
    assert [split.start(number) for number in range(split.shards + 1)][-1] == 1003
    assert split.bytes == 100_300


def test_the_digest_stands_for_all_that_matters(tmp_path: Path) -> None:
    digests = {
        plan_of(tmp_path / f"{count}-{size}-{shard_size}", count, size, shard_size=shard_size).digest
        for count in (99, 100)
        for size in (100, 101)
        for shard_size in (1000, 100_000)
    }
    assert len(digests) == 8
    plan = plan_of(tmp_path, 99)
    np.save(tmp_path / "order.npy", np.arange(99, dtype=np.int64))
    wanted = {"train": Wanted(plan.splits[0].listing, tmp_path / "order.npy", 9900)}
    _, listed = listing(tmp_path / "again", "train", 99, 100)
    assert make_plan(wanted, ("class",), listed, 1000).digest != plan.digest


def test_split_names_with_dots_make_keys_without(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 3, split="train.clean")
    assert plan.splits[0].names(1).file == "train_clean-000001.tar"
