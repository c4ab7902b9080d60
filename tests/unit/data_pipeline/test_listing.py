"""The listing on the disk: it keeps what a source lists, numbers the classes, refuses what is damaged, stays small."""

import pickle
import re
import tracemalloc
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.listing import LISTED, Listings, read_listing, write_listing
from data_pipeline.sources import Entry, Found, Outline


@dataclass(frozen=True)
class Imagined:
    """A source of images that need not exist."""

    found: Iterable[Found]
    classes: tuple[str, ...] | None = None

    def outline(self) -> Outline:
        return Outline(self.classes, "imagined images")

    def images(self) -> Iterator[Found]:
        return iter(self.found)

    def read(self, split: str, entry: Entry, limit: int | None = None) -> bytes:
        raise AssertionError

    def annotations(self, split: str, entry: Entry) -> dict[str, Any]:
        raise AssertionError


def write(
    folder: Path,
    found: Iterable[Found],
    classes: tuple[str, ...] | None = None,
    take: int | None = None,
    labels: bool = True,
) -> Listings:
    source = Imagined(found, classes)
    return write_listing(folder, source, source.outline(), take, labels, lambda _: None)


def labelled(*labels: int | str | None, split: str = "train") -> list[Found]:
    return [Found(split, f"image {number}", label, 10 + number) for number, label in enumerate(labels)]


def labels_of(listings: Listings, split: str = "train") -> list[int]:
    return listings.splits[split].records()["label"].tolist()


def test_what_was_listed_is_read_back(tmp_path: Path) -> None:
    found = [
        Found("test", "b", None, 7, 3, 2**40),
        Found("train", "a", "wolf", 5),
        Found("zoo", "c", None, 1),
        Found("train", "line\nbreak \udcff and é", "ant", 6, 2**60),
        Found("air", "", None, 2),
        Found("validation", "d", "wolf", 9),
    ]
    listings = write(tmp_path / "listing", found)
    assert list(listings.splits) == ["train", "validation", "test", "air", "zoo"]
    assert (listings.classes, listings.notes) == (
        ("ant", "wolf"),
        tuple(f"{split}: no image has a label" for split in ("test", "air", "zoo")),
    )
    train, test = listings.splits["train"], listings.splits["test"]
    assert (len(train), train.split, train.size) == (2, "train", 11)
    assert [train.entry(0), train.entry(1)] == [Entry("a", 1, 5), Entry("line\nbreak \udcff and é", 0, 6, 2**60)]
    assert test.entry(0) == Entry("b", -1, 7, 3, 2**40)
    assert train.names([1, 0, 1]) == ["line\nbreak \udcff and é", "a", "line\nbreak \udcff and é"]
    assert listings.splits["air"].entry(0) == Entry("", -1, 2)
    assert train.records().dtype == LISTED
    assert read_listing(tmp_path / "listing") == listings
    assert [path.name for path in tmp_path.iterdir()] == ["listing"]


def test_what_a_source_says_at_its_end_is_kept(tmp_path: Path) -> None:
    said = ("left out: 2 samples without an image", "left out: 1 members .mp4, which are no text")

    def telling() -> Generator[Found, None, tuple[str, ...]]:
        yield from labelled(1, 2)
        yield Found("test", "b", None, 7)
        return said

    listings = write(tmp_path / "listing", telling())
    assert listings.notes == (*said, "test: no image has a label")
    silent = write(tmp_path / "silent", (found for found in telling()))  # returns None
    assert (silent.notes, silent.digest) == (("test: no image has a label",), listings.digest)
    assert write(tmp_path / "listing", telling(), take=1, labels=False).notes == said
    kept = read_listing(tmp_path / "listing")
    assert kept is not None
    assert kept.notes == said


def test_a_listing_travels_light(tmp_path: Path) -> None:
    train = write(tmp_path / "listing", labelled(*range(5000))).splits["train"]
    train.entry(0)
    pickled = pickle.dumps(train)
    assert len(pickled) < 500
    assert pickle.loads(pickled).entry(4321) == Entry("image 4321", 4321, 4331)  # noqa: S301


def test_progress_is_reported(tmp_path: Path) -> None:
    source, reported = Imagined(labelled(*range(3500))), []
    write_listing(tmp_path / "listing", source, source.outline(), None, True, reported.append)
    assert sum(reported) == 3500
    assert len(reported) > 2


@pytest.mark.parametrize(
    ("labels", "known", "classes", "numbers"),
    [
        (("c", "a", "c", "b"), None, ("a", "b", "c"), [2, 0, 2, 1]),
        ((3, 0, 1), None, ("0", "1", "2", "3"), [3, 0, 1]),
        (("c", "a"), ("c", "b", "a"), ("c", "b", "a"), [0, 2]),
        ((1, 0), ("dog", "cat"), ("dog", "cat"), [1, 0]),
        ((None, None), ("dog", "cat"), None, [-1, -1]),
        ((-1, None), None, None, [-1, -1]),
        ((999_999,), None, tuple(map(str, range(1_000_000))), [999_999]),
    ],
)
def test_labels_become_classes(
    tmp_path: Path, labels: Any, known: tuple[str, ...] | None, classes: tuple[str, ...] | None, numbers: list[int]
) -> None:
    listings = write(tmp_path / "listing", labelled(*labels), known)
    assert listings.classes == classes
    assert labels_of(listings) == numbers


def test_labels_can_be_left_out(tmp_path: Path) -> None:
    listings = write(tmp_path / "listing", labelled("ant", None, 5, -7), ("bee",), labels=False)
    assert listings.classes is None
    assert labels_of(listings) == [-1] * 4


def test_only_the_first_of_each_split(tmp_path: Path) -> None:
    found = [*labelled("a", "b", "c", None), *labelled("z", split="test"), *labelled(3)]
    listings = write(tmp_path / "listing", found, take=2)
    assert {split: labels_of(listings, split) for split in listings.splits} == {"train": [0, 1], "test": [2]}
    assert listings.classes == ("a", "b", "z")


@pytest.mark.parametrize(
    ("labels", "known", "message"),
    [
        (
            (0, None, 2, -1),
            None,
            "split train: 2 of 4 images have no label, the first is image 1; label all or none of a split, or leave "
            "labels out with --labels none",
        ),
        (
            (None, None, 3),
            None,
            "split train: 2 of 3 images have no label, the first is image 0; label all or none",
        ),
        ((5, 2), ("x", "y"), "image 0 has the label 5, expected 0 to 1, the number of one of the 2 known classes; cho"),
        (("y", "z"), ("x", "y"), "image 1 has the label 'z', expected one of the 2 known classes; choose another --l"),
        ((0, -2), None, "split train: image 1 has the label -2, expected 0 to 999,999, these are no class numbers; ch"),
        (
            (1_000_000,),
            None,
            "image 0 has the label 1000000, expected 0 to 999,999, these are no class numbers; choose",
        ),
        (
            (3, "a"),
            None,
            "split train: image 1 has the label 'a', expected a number as in the images before it; choose",
        ),
        (("a", 3), None, "split train: image 1 has the label 3, expected a name as in the images before it; choose"),
    ],
)
def test_labels_that_are_no_classes(tmp_path: Path, labels: Any, known: tuple[str, ...] | None, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        write(tmp_path / "listing", labelled(*labels), known)
    assert not list(tmp_path.iterdir())


def test_a_column_of_captions_is_no_column_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipeline.class_numbers._MOST_CLASSES", 3)
    with pytest.raises(ValueError, match="image 3 has the label 'd', expected at most 3 names, these are no class nam"):
        write(tmp_path / "listing", labelled("a", "b", "c", "d"))


def test_no_image_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="imagined images: no images in it; expected at least one"):
        write(tmp_path / "listing", [])


def test_the_digest_stands_for_what_is_listed(tmp_path: Path) -> None:
    two = [Found("train", "a", "x", 5), Found("test", "b", "y", 6)]

    def digest(*found: Found, **options: Any) -> str:
        return write(tmp_path / "listing", found, **options).digest

    same = digest(*two)
    assert digest(*reversed(two)) == same  # each split on its own is listed in the same order
    assert digest(*(found._replace(place=9, offset=9) for found in two)) == same
    others = {
        digest(two[0], two[1]._replace(split="validation")),
        digest(two[0], two[1]._replace(name="c")),
        digest(two[0], two[1]._replace(label="x")),
        digest(two[0], two[1]._replace(label="z")),
        digest(two[0], two[1]._replace(size=7)),
        digest(two[0]),
        digest(*two, labels=False),
        digest(*two, classes=("x", "z", "y")),
        digest(Found("train", "ab", None, 1), Found("train", "c", None, 1)),
        digest(Found("train", "a", None, 1), Found("train", "bc", None, 1)),
    }
    assert len(others) == 10
    assert same not in others


def test_a_listing_is_replaced_and_not_seen_through_the_old_mapping(tmp_path: Path) -> None:
    old = write(tmp_path / "listing", labelled("old")).splits["train"]
    assert old.entry(0).size == 10
    new = write(tmp_path / "listing", [Found("train", "newer", None, 99)]).splits["train"]
    assert new.entry(0) == Entry("newer", -1, 99)


def test_damage_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "listing"
    assert read_listing(folder) is None
    write(folder, labelled("a", "b", "c"))
    assert sorted(path.name for path in folder.iterdir()) == ["000.names", "000.records", "listing.json"]
    for path in folder.iterdir():
        whole = path.read_bytes()
        for damaged in (whole[:-3], b"", whole[:2] + b"\x07" + whole[3:]):
            path.write_bytes(damaged)
            assert read_listing(folder) is None
        path.unlink()
        assert read_listing(folder) is None
        path.write_bytes(whole)
    assert read_listing(folder) is not None


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[Found]:
        yield from labelled(*range(2000))
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write(tmp_path / "listing", failing())
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    def many() -> Iterator[Found]:
        for number in range(300_000):
            yield Found("train", f"class {number % 100}/{number:09d}.jpg", f"class {number % 100}", 1000, number)

    tracemalloc.start()
    try:
        listings = write(tmp_path / "listing", many())
        train = listings.splits["train"]
        assert train.entry(299_999) == Entry("class 99/000299999.jpg", 99, 1000, 299_999)
        assert len(np.unique(train.records()["label"])) == 100
        train_bytes = sum(path.stat().st_size for path in (tmp_path / "listing").iterdir())
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert train_bytes > 15_000_000
    assert most < 2_500_000
