"""Sheets of pictures: every pixel of a small image a square, channels as people can see them, room for the words."""

import io

import numpy as np
import pytest
from PIL import Image

from pretrain.picture_rows import PictureRow, draw_rows


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def drawn(*rows: PictureRow, title: str = "title", note: str = "note") -> np.ndarray:
    with Image.open(io.BytesIO(draw_rows(title, note, list(rows)))) as picture:
        picture.load()
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def holds(sheet: np.ndarray, tile: np.ndarray) -> bool:
    """Whether the tile stands somewhere in the sheet, pixel for pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], tile.shape[:2])
    corners = np.argwhere((windows[..., 0, 0] == tile[0, 0, 0]) & (windows[..., -1, -1] == tile[-1, -1, 0]))
    height, width = tile.shape[:2]
    return any(np.array_equal(sheet[y : y + height, x : x + width], tile) for y, x in corners)


@pytest.mark.parametrize(("height", "width", "factor"), [(8, 8, 24), (32, 32, 6), (16, 48, 4), (224, 224, 1)])
def test_pixels_are_enlarged_by_a_whole_number(height: int, width: int, factor: int):
    images = random_images(2, height, width, 3)
    sheet = drawn(PictureRow("Originals", "", images))
    for image in images:
        assert holds(sheet, image.repeat(factor, axis=0).repeat(factor, axis=1))


def test_images_larger_than_a_tile_are_shrunk():
    sheet = drawn(PictureRow("Originals", "", random_images(3, 300, 600, 3)))
    assert sheet.shape[1] < 3 * 200 + 100


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_grey_where_there_are_fewer_than_three_channels_else_the_first_three(channels: int):
    images = random_images(1, 32, 32, channels)
    shown = images[0][..., :3] if channels > 3 else images[0][..., :1].repeat(3, axis=2)
    assert holds(drawn(PictureRow("Originals", "", images)), shown.repeat(6, axis=0).repeat(6, axis=1))


def test_what_is_covered_does_not_show_and_what_is_not_does():
    black = np.zeros((1, 16, 16, 3), np.uint8)
    covered = np.zeros((1, 16, 16), np.bool_)
    covered[0, :8] = True
    # The words, at the top left, are left out of the count.
    plain, half = (drawn(PictureRow("", "", black, hidden), title="", note="") for hidden in (None, covered))
    assert plain.shape == half.shape
    assert (plain == 0).all(axis=2).sum() == 192 * 192
    assert (half == 0).all(axis=2).sum() == 192 * 96
    assert len(np.unique(half[(plain == 0).all(axis=2)], axis=0)) == 3, "two colours of stripes, and black"


def test_words_longer_than_the_pictures_are_wide_have_room():
    row = PictureRow(
        "A name",
        "and a note that is much longer than the one picture below it is wide",
        np.zeros((1, 8, 8, 1), np.uint8),
    )
    sheet = drawn(row)
    assert sheet.shape[1] > 700
    assert (sheet[:, -40:] == 255).all()
