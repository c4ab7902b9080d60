"""The choice of samples, their pixels on the sheet, and images of every kind."""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_pipeline.contact_sheet import choose_samples, contact_sheet, to_picture
from data_pipeline.manifest import Manifest, Shard, Split, locate_sample, sample_starts

MakeDataset = Callable[..., Manifest]


def split_of(shards: list[int], withdrawn: tuple[int, ...] = ()) -> Split:
    return Split("png", tuple(Shard("", count, 0, "", "", "") for count in shards), withdrawn=withdrawn)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 60), st.integers(0, 2**40), st.data())
def test_chosen_samples_are_distinct_and_take_part(
    shards: list[int], count: int, seed: int, data: st.DataObject
) -> None:
    total = sum(shards)
    out = sorted(data.draw(st.sets(st.integers(0, total - 1), max_size=total - 1)))
    split = split_of(shards, tuple(out))
    chosen = choose_samples(split, count, seed)
    assert len(chosen) == min(count, total - len(out))
    assert np.all(np.diff(chosen) > 0)
    assert chosen[0] >= 0
    assert chosen[-1] < total
    assert not set(chosen.tolist()) & set(out)
    assert chosen.tolist() == choose_samples(split, count, seed).tolist()


def test_every_shard_has_its_share() -> None:
    split = split_of([500] * 20)
    shards, _ = locate_sample(sample_starts(split), choose_samples(split, 100, 7))
    assert np.bincount(shards).tolist() == [5] * 20
    assert choose_samples(split, 100, 7).tolist() != choose_samples(split, 100, 8).tolist()


def sheet_of(manifest: Manifest, count: int = 6, seed: int = 0) -> Image.Image:
    done: list[int] = []
    data = contact_sheet(manifest, "train", count, seed, done.append)
    assert sum(done) == min(count, manifest.split("train").present)
    return Image.open(io.BytesIO(data))


def colours(sheet: Image.Image) -> set[tuple[int, ...]]:
    pixels = np.asarray(sheet).reshape(-1, 3)
    values, counts = np.unique(pixels, axis=0, return_counts=True)
    return {tuple(value) for value, count in zip(values.tolist(), counts.tolist(), strict=True) if count > 2000}


def test_the_chosen_samples_are_on_the_sheet(make_dataset: MakeDataset) -> None:
    data = make_dataset([20, 20, 20])
    sheet = sheet_of(data, 6, seed=3)
    shown = choose_samples(data.split("train"), 6, 3).tolist()
    assert colours(sheet) - {(255, 255, 255)} == {(number, 0, 0) for number in shown}
    again = contact_sheet(data, "train", 6, 3, lambda _: None)
    assert again == contact_sheet(data, "train", 6, 3, lambda _: None)


def test_a_sheet_grows_with_its_images(make_dataset: MakeDataset) -> None:
    data = make_dataset([60])
    small, large = sheet_of(data, 6), sheet_of(data, 60)
    assert small.mode == large.mode == "RGB"
    assert large.width > small.width
    assert large.height > small.height


def test_broken_and_withdrawn_samples(make_dataset: MakeDataset) -> None:
    data = make_dataset([4], broken=[1], withdrawn=[2])
    assert colours(sheet_of(data)) - {(255, 255, 255), (238, 238, 240)} == {(0, 0, 0), (3, 0, 0)}


@pytest.mark.parametrize("array", [(1, "uint8"), (2, "uint16"), (5, "float32")])
def test_arrays_of_any_kind_are_drawn(make_dataset: MakeDataset, array: tuple[int, str]) -> None:
    sheet = np.asarray(sheet_of(make_dataset([3], array=array))).astype(int)
    is_grey = (sheet.max(axis=2) - sheet.min(axis=2)).max() < 9  # the ink is a little blue
    assert is_grey == (array[0] < 3)
    assert len(np.unique(sheet)) > 100


def test_values_are_stretched_to_what_can_be_seen() -> None:
    ramp = np.linspace(2000, 3000, 101).astype(np.uint16).reshape(101, 1, 1)
    picture = to_picture(ramp)
    assert picture.shape == (101, 1, 3)
    assert picture.dtype == np.uint8
    assert (picture[1, 0, 0], picture[50, 0, 0], picture[99, 0, 0]) == (0, 128, 255)
    assert np.all(np.diff(picture[:, 0, 0].astype(int)) >= 0)
    assert to_picture(np.full((2, 2, 4), 7.5, np.float32)).max() == 0
    same = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert to_picture(same) is not None
    assert np.array_equal(to_picture(same), same)


def test_a_name_in_letters_that_cannot_be_drawn_is_a_number(make_dataset: MakeDataset) -> None:
    data = make_dataset([5])
    sheets = [
        contact_sheet(replace(data, classes=tuple(names)), "train", 5, 0, lambda _: None)
        for names in ([f"{chr(0x4E00 + digit)}" for digit in range(10)], [f"class {digit}" for digit in range(10)])
    ]
    assert sheets[0] == sheets[1]
    greek = contact_sheet(replace(data, classes=tuple("αβγδεζηθικ")), "train", 5, 0, lambda _: None)
    assert greek != sheets[0]


def test_long_class_names_are_cut(make_dataset: MakeDataset) -> None:
    data = make_dataset([10])
    long = replace(data, classes=tuple(f"{digit} {'of a very long name ' * 9}" for digit in range(10)))
    assert sheet_of(long, 10).size == sheet_of(data, 10).size
    unlabelled = replace(data, classes=None)
    assert sheet_of(unlabelled, 10).size == sheet_of(data, 10).size
