"""Which images are written: what is left out and why, what is held out, in which order, and always the same."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import xxhash

from data_pipeline import sieve
from data_pipeline.examine import FACTS, FORMATS
from data_pipeline.listing import Listings, write_listing
from data_pipeline.randomness import Purpose, key
from data_pipeline.selection import Rules, Selection, select
from data_pipeline.sources import Entry, Found, Outline

KEEP_ALL = Rules(duplicates="keep")


class Picture(NamedTuple):
    """An image by its name; those of the same `content` have the same bytes. Without a content by its name."""

    name: str
    content: str = ""
    label: str | None = None
    size: tuple[int, int] = (100, 80)
    look: int = 0
    kind: str = "jpg"
    readable: bool = True


@dataclass(frozen=True)
class Listed:
    """A source that is only listed."""

    splits: dict[str, list[Picture]]

    def outline(self) -> Outline:
        return Outline(None, "pictures of a test")

    def images(self) -> Iterator[Found]:
        for split, pictures in self.splits.items():
            for picture in pictures:
                yield Found(split, picture.name, picture.label, 1000)

    def read(self, split: str, entry: Entry, limit: int | None = None) -> bytes:
        raise AssertionError("the selection reads no image")

    def annotations(self, split: str, entry: Entry) -> dict[str, Any]:
        return {}


class Corpus(NamedTuple):
    listings: Listings
    facts: dict[str, list[Path]]


def make_corpus(folder: Path, splits: dict[str, list[Picture]], at_once: int = 5) -> Corpus:
    source = Listed(splits)
    folder.mkdir()
    listings = write_listing(folder / "listing", source, source.outline(), None, True, lambda _: None)
    facts: dict[str, list[Path]] = {}
    for split, pictures in splits.items():
        records = np.zeros(len(pictures), FACTS)
        for number, picture in enumerate(pictures):
            digest = xxhash.xxh3_128_intdigest((picture.content or picture.name).encode("utf-8", "surrogateescape"))
            size = picture.size if picture.readable else (0, 0)
            hashes = digest >> 64, digest & (1 << 64) - 1
            records[number] = (number, *hashes, *size, picture.look, FORMATS.index(picture.kind), picture.readable)
        facts[split] = [folder / f"{split}-{start}.npy" for start in range(0, len(pictures), at_once)]
        for place, path in enumerate(facts[split]):
            np.save(path, records[place * at_once : (place + 1) * at_once])
    return Corpus(listings, facts)


Choose = Callable[..., Selection]


@pytest.fixture
def choose(tmp_path: Path) -> Choose:
    """Selects from pictures: `choose(Rules(), train=[...], test=[...])`."""
    made = 0

    def run(rules: Rules, seed: int = 0, **splits: list[Picture]) -> Selection:
        nonlocal made
        made += 1
        listings, facts = make_corpus(tmp_path / f"corpus-{made}", splits)
        return select(listings, facts, rules, seed, tmp_path / f"work-{made}")

    return run


def numbers(found: Selection, split: str = "train") -> list[int]:
    return np.load(found.splits[split].numbers).tolist()


def dropped(found: Selection) -> list[tuple[str, str, str]]:
    return [tuple(json.loads(line).values()) for line in found.dropped.read_text().splitlines()]


def many(count: int, first: int = 0) -> list[Picture]:
    return [Picture(f"class/{number}.jpg") for number in range(first, first + count)]


@pytest.mark.parametrize(
    ("rules", "depth"),
    [
        (KEEP_ALL, "format"),
        (Rules(), "bytes"),
        (Rules(duplicates="keep", min_side=1), "bytes"),
        (Rules(duplicates="keep", max_pixels=1), "bytes"),
        (Rules(duplicates="keep", max_aspect=1.0), "bytes"),
        (Rules(duplicates="keep", holdout=0.5), "bytes"),
        (Rules(duplicates="keep", near_duplicates="report"), "pixels"),
        (Rules(near_duplicates="drop"), "pixels"),
    ],
)
def test_images_are_examined_as_far_as_the_rules_need(rules: Rules, depth: str) -> None:
    assert rules.depth == depth


def test_everything_may_stay(choose: Choose) -> None:
    found = choose(KEEP_ALL, train=many(12), test=many(12))
    assert [sorted(numbers(found, split)) for split in ("train", "test")] == [list(range(12))] * 2
    assert found.counts == {}
    assert dropped(found) == []
    assert found.notes == ()
    assert np.load(found.splits["train"].numbers).dtype == np.int64


def test_the_order_is_that_of_names_and_seed(choose: Choose) -> None:
    assert numbers(choose(KEEP_ALL, train=many(8))) == [6, 3, 4, 5, 0, 2, 1, 7]  # pinned: another is another dataset
    names = [picture.name for picture in many(50)]
    keys = [key(7, Purpose.SHARD_SHUFFLE, xxhash.xxh3_64_intdigest(os.fsencode(name))) for name in names]
    by_hash = np.argsort(np.array(keys, np.uint64)).tolist()
    assert numbers(choose(Rules(), 7, train=many(50))) == by_hash


def test_sizes_out_of_bounds_are_left_out_for_the_first_reason(choose: Choose) -> None:
    sizes = {"thin": (19, 300), "small": (19, 19), "large": (200, 101), "long": (400, 40), "fits": (200, 100)}
    pictures = [Picture(name, size=size) for name, size in sizes.items()]
    broken = Picture("broken", size=(1, 1), readable=False)
    found = choose(Rules(min_side=20, max_pixels=20_000, max_aspect=2.5), train=[*pictures, broken])
    assert sorted(numbers(found)) == [4, 5]
    assert dropped(found) == [
        ("train", "thin", "19 x 300 pixels: shorter than --min-side 20"),
        ("train", "small", "19 x 19 pixels: shorter than --min-side 20"),
        ("train", "large", "200 x 101 pixels: 20,200 of them, --max-pixels is 20000"),
        ("train", "long", "400 x 40 pixels: one side is 10 times the other, --max-aspect is 2.5"),
    ]
    assert found.counts == {"min_side": 2, "max_pixels": 1, "max_aspect": 1}


def test_bounds_are_within(choose: Choose) -> None:
    edge = [Picture("a", size=(20, 50)), Picture("b", size=(50, 20)), Picture("c", size=(70_000, 70_000))]
    found = choose(Rules(min_side=20, max_aspect=2.5, max_pixels=4_900_000_000), train=edge)
    assert sorted(numbers(found)) == [0, 1, 2]


def test_of_the_same_bytes_the_first_stays(choose: Choose) -> None:
    pictures = [Picture("a", "x", "cat"), Picture("b", "y", "dog"), Picture("c", "x", "dog"), Picture("d", "x", "cat")]
    found = choose(Rules(), train=pictures, test=[Picture("a", "z", "cat"), Picture("b", "z", "cat")])
    assert sorted(numbers(found)) == [0, 1]
    assert dropped(found) == [
        ("test", "b", "same bytes as a"),
        ("train", "c", "same bytes as a, which has another class: cat"),
        ("train", "d", "same bytes as a"),
    ]
    assert found.counts == {"duplicates": 3}
    assert found.notes == (
        "test: 1 images have the bytes of an earlier one: left out",
        "train: 2 images have the bytes of an earlier one, 1 of them under another class: left out",
    )


def test_the_same_bytes_may_stay_and_are_told_of(choose: Choose) -> None:
    found = choose(Rules(duplicates="keep", min_side=1), train=[Picture("a", "x"), Picture("b", "x")])
    assert sorted(numbers(found)) == [0, 1]
    assert found.notes == ("train: 1 images have the bytes of an earlier one: kept",)


def test_what_cannot_be_read_is_no_duplicate(choose: Choose) -> None:
    found = choose(Rules(), train=[Picture(name, "x", readable=False) for name in "ab"], test=[Picture("c", "x")])
    assert sorted(numbers(found)) == [0, 1]
    assert found.notes == ()
    assert found.formats == {"train": {}, "test": {"jpg": 1}}


def test_images_of_train_in_another_split_are_told_of_and_stay(choose: Choose) -> None:
    train = [Picture(f"t{number}", f"{number % 8}") for number in range(16)]
    test = [Picture(f"e{number}", f"{number}") for number in range(12, 2, -1)]
    found = choose(Rules(), train=train, test=test, other=[Picture("o", "3")])
    assert found.notes[1:] == (
        "test: 5 images are in train too, byte for byte, and kept: e7, e6, e5, ...",
        "other: 1 images are in train too, byte for byte, and kept: o",
    )
    assert len(numbers(found, "test")) == 10


def test_the_formats_and_classes_of_what_is_chosen_are_counted(choose: Choose) -> None:
    kinds = ["jpg", "png", "jpg", "other", "npy", "jpg"]
    pictures = [Picture(f"{n}", label="ab"[n % 2], kind=kind, size=(10 + n, 99)) for n, kind in enumerate(kinds)]
    found = choose(Rules(min_side=11), train=pictures, test=[Picture("x")])
    assert found.formats == {"train": {"jpg": 2, "png": 1, "other": 1, "npy": 1}, "test": {"jpg": 1}}


def content_of(found: Selection, split: str, pictures: Sequence[Picture]) -> set[str]:
    assert found.splits[split].source_split == "train"
    return {pictures[number].name for number in numbers(found, split)}


def test_a_share_is_held_out_and_stays_so_as_images_are_added(choose: Choose) -> None:
    few, more = many(400), [*many(300, first=1000), *many(400)]
    before, after = choose(Rules(holdout=0.25), 0, train=few), choose(Rules(holdout=0.25), 9, train=more)
    held, still_held = content_of(before, "validation", few), content_of(after, "validation", more)
    assert 70 <= len(held) <= 130
    assert held == still_held & {picture.name for picture in few}
    assert held | content_of(before, "train", few) == {picture.name for picture in few}
    assert not held & content_of(before, "train", few)
    assert held < content_of(choose(Rules(holdout=0.5), 0, train=few), "validation", few)
    beside = choose(Rules(holdout=0.5), train=few, test=many(30))
    assert list(beside.splits) == ["train", "validation", "test"]
    assert sorted(numbers(beside, "test")) == list(range(30))


def test_a_hold_out_that_cannot_be_is_refused(choose: Choose) -> None:
    with pytest.raises(ValueError, match=r"the source has a split validation already, of 3 images; leave the option"):
        choose(Rules(holdout=0.5), train=many(9), validation=many(3))
    with pytest.raises(ValueError, match=r"--holdout 0.5 takes images of train for validation, .* no train, but test"):
        choose(Rules(holdout=0.5), test=many(9))
    with pytest.raises(ValueError, match=r"--holdout puts none of train's 9 images into validation: give a larger"):
        choose(Rules(holdout=1e-6), train=many(9))
    with pytest.raises(ValueError, match=r"--holdout puts all of train's 9 images into validation: give a smaller"):
        choose(Rules(holdout=1 - 1e-6), train=many(9))


def test_a_split_must_not_be_left_empty(choose: Choose) -> None:
    test = [Picture("a", size=(9, 9)), Picture("b", size=(99, 9)), Picture("c", size=(1000, 20))]
    with pytest.raises(
        ValueError,
        match="split test: all of its 3 images are left out, 2 by --min-side, 1 by --max-aspect: relax that, or take",
    ):
        choose(Rules(min_side=10, max_aspect=20), train=many(9), test=test)


LOOKS = [0b000, 0b111, 1 << 40, 0b111111, 1 << 40, 0b001]


@pytest.mark.parametrize("rule", ["report", "drop"])
def test_images_that_look_the_same_are_listed_or_left_out(rule: Any, choose: Choose) -> None:
    pictures = [Picture(f"{number}", look=look << 10) for number, look in enumerate(LOOKS)]
    twin, broken = Picture("twin", "2", look=1 << 50), Picture("broken", look=0, readable=False)
    found = choose(Rules(near_duplicates=rule), train=[*pictures, twin, broken], test=[Picture("t")])
    assert found.near_duplicates is not None
    assert [tuple(json.loads(line).values()) for line in found.near_duplicates.read_text().splitlines()] == [
        ("train", "1", "0", 3),
        ("train", "2", "0", 1),
        ("train", "3", "1", 3),
        ("train", "4", "2", 0),
        ("train", "5", "0", 1),
        ("train", "5", "1", 2),
        ("train", "5", "2", 2),
    ]
    copies = [("train", "twin", "same bytes as 2")]
    if rule == "report":
        assert dropped(found) == copies
        assert found.notes[-1] == "train: 7 pairs of images look the same: kept"
        return
    looks = [("1", 3), ("2", 1), ("4", 1), ("5", 1)]
    reasons = [("train", name, f"looks like 0 ({bits} of 64 bits differ)") for name, bits in looks]
    assert dropped(found) == reasons + copies
    assert found.counts == {"duplicates": 1, "near_duplicates": 4}
    assert sorted(numbers(found)) == [0, 3, 7]
    assert found.notes[-1] == "train: 7 pairs of images look the same: 4 images left out"


def test_without_likes_nothing_is_told(choose: Choose) -> None:
    found = choose(Rules(near_duplicates="drop"), train=[Picture("a", look=1), Picture("b", look=0xFF00)])
    assert found.notes == ()
    assert found.near_duplicates is not None
    assert found.near_duplicates.read_bytes() == b""


def crowd(count: int) -> list[Picture]:
    """Pictures of which something is wrong with many."""
    random = np.random.default_rng(0)
    return [
        Picture(
            f"{number}\udcff.jpg",
            content=f"{random.integers(count)}",
            label="abc"[random.integers(3)],
            size=(int(random.integers(5, 200)), 90),
            look=int(random.integers(1 << 12)) << 30,
            readable=bool(random.integers(9)),
        )
        for number in range(count)
    ]


def files_of(work: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in work.iterdir()}


def test_the_outcome_does_not_depend_on_how_the_facts_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = Rules(min_side=20, max_aspect=3, near_duplicates="drop", holdout=0.2)
    splits = {"train": crowd(300), "test": crowd(60)}
    outcomes, files = [], []
    for at_once, block in ((1000, 1 << 16), (7, 1 << 16), (300, 11)):
        monkeypatch.setattr(sieve, "_AT_ONCE", block)
        listings, facts = make_corpus(tmp_path / f"{at_once}", splits, at_once)
        found = select(listings, facts, rules, 3, tmp_path / f"work-{at_once}")
        files.append(files_of(tmp_path / f"work-{at_once}"))
        outcomes.append((found.counts, found.formats, found.notes))
    assert files[0] == files[1] == files[2]
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert set(outcomes[0][0]) == {"min_side", "max_aspect", "duplicates", "near_duplicates"}
    chosen = sum(len(np.load(tmp_path / "work-7" / name)) for name in files[0] if name.endswith(".npy"))
    assert chosen + sum(outcomes[0][0].values()) == 360


def test_files_are_replaced_whole_or_stay(tmp_path: Path) -> None:
    listings, facts = make_corpus(tmp_path / "corpus", {"train": many(20), "test": many(5)})
    work = tmp_path / "work"
    work.mkdir()
    (work / ".partial-abandoned").mkdir()
    found = select(listings, facts, Rules(near_duplicates="report"), 0, work)
    before = files_of(work)
    assert sorted(before) == ["dropped.jsonl", "near_duplicates.jsonl", "numbers-0.npy", "numbers-1.npy"]
    with pytest.raises(ValueError, match="all of its 5 images are left out"):
        select(listings, facts, Rules(min_side=1000), 0, work)
    assert files_of(work) == before
    found.splits["train"].numbers.rename(tmp_path / "elsewhere.npy")
    again = select(listings, facts, Rules(), 0, work)
    assert again.near_duplicates is None
    assert sorted(files_of(work)) == ["dropped.jsonl", "numbers-0.npy", "numbers-1.npy"]
    assert np.array_equal(np.load(tmp_path / "elsewhere.npy"), np.load(again.splits["train"].numbers))
