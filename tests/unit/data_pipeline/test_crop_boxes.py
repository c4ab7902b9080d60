"""Boxes drawn for whole batches are those that each sample draws alone."""

import math

import numpy as np
import pytest
import xxhash

from data_pipeline.augment import CenterCrop, RandomResizedCrop, View
from data_pipeline.crop_boxes import _bits, _integers, _mix, check_view, draw_boxes, keys_of
from data_pipeline.rand_augment import RandAugment
from data_pipeline.randomness import Draws, key

EXTREMES = [0, 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1]
VIEWS: list[View] = [
    RandomResizedCrop((32, 32)),
    RandomResizedCrop((8, 24), scale=(0.05, 0.4), ratio=(0.5, 3.0), mirror=0.2),
    RandomResizedCrop((8, 8), scale=(0.9, 1.0), ratio=(1.0, 1.0)),
    RandomResizedCrop((8, 8), scale=(0.0, 0.001)),
    RandomResizedCrop((8, 8), scale=(0.25, 0.25), ratio=(1.0, 1.0)),  # halves of odd sides are rounded to even
    CenterCrop((32, 32), 0.875),
    CenterCrop((7, 20)),
]


def random_words(count: int, seed: int, words: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, (count, words), np.uint64)


def alone(view: View, words: np.ndarray, widths: np.ndarray, heights: np.ndarray) -> list[list[int]]:
    rows = zip(words.tolist(), widths.tolist(), heights.tolist(), strict=True)
    return [[int(value) for value in view.draw(Draws(*own), width, height)] for own, width, height in rows]


def test_keys_are_those_of_each_row():
    for count in (1, 6, 7):
        words = random_words(50, seed=count, words=count)
        words[: len(EXTREMES), 0] = EXTREMES
        keys = keys_of(words)
        assert keys.dtype == np.uint64
        assert keys.tolist() == [key(*row) for row in words.tolist()]
    strided = random_words(6, seed=0).T
    assert keys_of(strided).tolist() == [key(*row) for row in strided.tolist()]
    assert keys_of(random_words(0, seed=0)).shape == (0,)


def test_the_hash_is_xxhashs():
    seeds = np.concatenate([np.asarray(EXTREMES, np.uint64), random_words(2000, seed=1, words=1)[:, 0]])
    for number in (1, 2, 23, 2**31, 2**32 - 1):
        expected = [xxhash.xxh3_64_intdigest(number.to_bytes(8, "little"), seed) for seed in seeds.tolist()]
        assert _bits(_mix(seeds), number).tolist() == expected


def test_integers_are_the_upper_half_of_the_whole_product():
    mixed = _mix(random_words(500, seed=2, words=1)[:, 0])
    for count in (1, 2, 3, 1000, 2**31 + 11, 2**32 - 1):
        expected = [bits * count >> 64 for bits in _bits(mixed, 5).tolist()]
        assert _integers(mixed, 5, np.full(500, count)).tolist() == expected


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_boxes_are_those_of_each_sample_alone(view: View):
    count = 6000
    words = random_words(count, seed=3)
    random = np.random.default_rng(4)
    widths, heights = random.integers(1, 601, (2, count))
    widths[::3] = heights[::3]
    widths[1::9] = random.integers(1, 5, len(widths[1::9]))  # elongated: attempts fail
    boxes = draw_boxes(view, keys_of(words), widths, heights)
    assert boxes.dtype == np.int64
    assert boxes.tolist() == alone(view, words, widths, heights)
    some = random.permutation(count)[:100]
    assert np.array_equal(draw_boxes(view, keys_of(words[some]), widths[some], heights[some]), boxes[some])


def test_where_all_attempts_fail_the_box_is_the_largest_central_one():
    words = random_words(200, seed=5)
    for width, height, box in ((600, 1, [299, 0, 1, 1]), (3, 500, [0, 248, 3, 4]), (400, 90, [140, 0, 120, 90])):
        widths, heights = np.full(200, width), np.full(200, height)
        boxes = draw_boxes(VIEWS[0], keys_of(words), widths, heights)
        assert boxes.tolist() == alone(VIEWS[0], words, widths, heights)
        assert box in boxes[:, :4].tolist()
    assert 60 < boxes[:, 4].sum() < 140


def test_large_sizes_of_a_narrow_type_do_not_wrap_around():
    words = random_words(20, seed=6)
    sides = np.full(20, 65_000, np.int32)
    for view in VIEWS:
        assert draw_boxes(view, keys_of(words), sides, sides).tolist() == alone(view, words, sides, sides)


def test_an_empty_batch_has_no_boxes():
    nothing = np.zeros(0, np.int64)
    for view in VIEWS:
        assert draw_boxes(view, nothing.astype(np.uint64), nothing, nothing).shape == (0, 5)


def test_exponentials_are_those_of_the_c_library(monkeypatch: pytest.MonkeyPatch):
    """numpy's own may differ in the last bit, which moves a box where a side is just between two numbers."""
    asked: list[float] = []
    exponential = math.exp
    monkeypatch.setattr(math, "exp", lambda value: asked.append(value) or exponential(value))
    draw_boxes(VIEWS[0], keys_of(random_words(10, seed=7)), np.full(10, 32), np.full(10, 32))
    assert len(asked) >= 10


class _Other(RandomResizedCrop):
    pass


def test_other_views_are_refused():
    for view in VIEWS:
        check_view(view)
    policy = RandomResizedCrop((8, 8), policy=RandAugment("rand-m9"))
    with pytest.raises(
        ValueError, match=r"^--cache device: rand-m9 changes .* leave the policy out, or use --cache mem"
    ):
        check_view(policy)
    other = _Other((8, 8))
    message = r"^--cache device: shows views of RandomResizedCrop .* and of CenterCrop, found _Other.*; use --cache mem"
    with pytest.raises(ValueError, match=message):
        draw_boxes(other, np.zeros(1, np.uint64), np.ones(1, np.int64), np.ones(1, np.int64))
