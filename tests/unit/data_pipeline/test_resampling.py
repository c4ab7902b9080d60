"""Crops resized in batches are, to the bit, those that torch resizes one by one on a CPU."""

import numpy as np
import pytest
import torch

from data_pipeline import resampling
from data_pipeline.decode import Box
from data_pipeline.resampling import CropResizer, Size, filter_weights, table_bytes
from data_pipeline.view_pixels import view_of

CPU = torch.device("cpu")


def pictures(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Noise, every other image black and white: sums beyond both ends of uint8."""
    images = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    images[1::2] = (images[1::2] > 127) * np.uint8(255)
    return images


def random_boxes(count: int, longest: Size, seed: int) -> np.ndarray:
    """Of any size and place; the first ones reach the borders."""
    random = np.random.default_rng(seed)
    sides = np.asarray([longest[1], longest[0]])
    lengths = random.integers(1, sides + 1, (count, 2))
    lengths[0] = sides
    begins = random.integers(0, sides - lengths + 1)
    begins[1], begins[2] = 0, sides - lengths[2]
    return np.column_stack([begins, lengths, random.integers(0, 2, count)])


def check(images: np.ndarray, boxes: np.ndarray, size: Size) -> None:
    """Compare crops, of one image after the other, with those of the stream's workers."""
    samples = np.arange(len(boxes)) % len(images)
    columns = torch.from_numpy(images.transpose(0, 2, 3, 1).copy())
    found = CropResizer(images.shape[1:3], size, CPU).resize(columns, samples, boxes)
    assert found.dtype == torch.uint8
    assert found.shape == (len(boxes), *size, images.shape[3])
    for sample, (*box, mirrored), view in zip(samples.tolist(), boxes.tolist(), found.numpy(), strict=True):
        expected = view_of(images[sample], Box(*box), size, bool(mirrored))
        np.testing.assert_array_equal(view, expected, f"{box} mirrored {mirrored}")


@pytest.mark.parametrize("size", [8, 16, 32, 48])
def test_every_length_up_to_70(size: int):
    """In either direction; the other axis keeps its length, and with its many lines shows every weight."""
    lengths = np.arange(1, 71)
    across = np.stack([70 - lengths, 0 * lengths, lengths, 0 * lengths + 300, lengths % 2], 1)
    check(pictures((2, 300, 70, 3)), across, (300, size))
    check(pictures((2, 70, 300, 3)), across[:, [1, 0, 3, 2, 4]], (size, 300))


@pytest.mark.parametrize("size", [8, 64, 224])
def test_lengths_of_photographs(size: int):
    lengths = np.asarray([90, 223, 225, 300, 447, 448, 449, 512, 673, 799, 800])
    boxes = np.stack([800 - lengths, 0 * lengths, lengths, 0 * lengths + 20, lengths % 2], 1)
    check(pictures((2, 20, 800, 3)), boxes, (20, size))
    check(pictures((2, 800, 20, 3)), boxes[:, [1, 0, 3, 2, 4]], (size, 20))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 13])
@pytest.mark.parametrize("size", [(32, 32), (16, 48), (1, 1), (90, 7)])
def test_any_box_of_any_number_of_channels(channels: int, size: Size):
    """Torch has one code for up to four channels, and another for more."""
    check(pictures((3, 50, 61, channels)), random_boxes(60, (50, 61), seed=channels), size)


def test_boxes_of_the_size_itself_are_not_resized():
    images = pictures((2, 20, 30, 3))
    boxes = np.asarray([[3, 4, 8, 8, 0], [22, 12, 8, 8, 1]])
    check(images, boxes, (8, 8))
    columns = torch.from_numpy(images.transpose(0, 2, 3, 1).copy())
    views = CropResizer((20, 30), (8, 8), CPU).resize(columns, np.asarray([0, 1]), boxes).numpy()
    np.testing.assert_array_equal(views, [images[0, 4:12, 3:11], images[1, 12:20, 22:30][:, ::-1]])


def test_what_lies_around_a_box_does_not_matter():
    images = pictures((1, 40, 40, 3))
    box = np.asarray([[11, 9, 20, 22, 0]])
    other = 255 - images
    other[:, 9:31, 11:31] = images[:, 9:31, 11:31]
    resizer = CropResizer((40, 40), (12, 33), CPU)
    one, another = (
        resizer.resize(torch.from_numpy(each.transpose(0, 2, 3, 1).copy()), np.zeros(1, np.int64), box)
        for each in (images, other)
    )
    assert torch.equal(one, another)


def test_a_batch_is_worked_through_in_pieces(monkeypatch: pytest.MonkeyPatch):
    images, boxes = pictures((3, 30, 40, 3)), random_boxes(50, (30, 40), seed=1)
    for most in (1, 13 * 20 * 3 * 30 * 7):  # one crop at a time, and seven
        monkeypatch.setattr(resampling, "_BYTES_AT_A_TIME", most)
        check(images, boxes, (16, 20))


def test_an_empty_batch_has_no_views():
    columns = torch.zeros(2, 5, 3, 5, dtype=torch.uint8)
    empty = CropResizer((5, 5), (8, 9), CPU).resize(columns, np.zeros(0, np.int64), np.zeros((0, 5), np.int64))
    assert empty.shape == (0, 8, 9, 3)


@pytest.mark.parametrize(("length", "size"), [(1, 1), (1, 500), (3, 2), (32, 32), (31, 32), (700, 3), (20_000, 2)])
def test_no_sum_leaves_32_bits(length: int, size: int):
    first, weights = filter_weights(length, size)
    assert weights.dtype == np.int32
    assert (first >= 0).all()
    assert (first + (weights != 0).sum(1) <= length).all()
    np.testing.assert_allclose(weights.sum(1) / 2**22, 1, atol=2e-3)
    for sign in (1, -1):
        assert 255 * np.maximum(sign * weights.astype(np.int64), 0).sum(1).max() + 2**21 < 2**31


def test_tables_take_no_more_than_is_said():
    for longest, size in (((32, 32), (32, 32)), ((300, 20), (16, 64)), ((1, 1), (1, 1)), ((90, 200), (30, 30))):
        resizer = CropResizer(longest, size, CPU)
        axes = [resizer._down, resizer._across]
        taken = sum(axis._first.nbytes + axis._weights.nbytes for axis in axes)
        assert 0.4 * table_bytes(longest, size) < taken <= table_bytes(longest, size)
