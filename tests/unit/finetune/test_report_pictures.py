"""Pictures are data: URIs that hold what they should, where it should be."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.report_pictures import overlay, png_file, similarity_colours, similarity_maps, tile


def _pixels(uri: str) -> np.ndarray:
    head, _, content = uri.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        return np.asarray(picture)


def test_a_small_tile_shows_its_pixels_as_squares():
    image = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    shown = _pixels(tile(image))
    assert shown.shape == (160, 120, 3)
    assert np.array_equal(shown, np.kron(image, np.ones((20, 20, 1), np.uint8)))


def test_a_large_tile_is_shrunk():
    image = np.full((448, 224, 3), (200, 30, 40), np.uint8)
    shown = _pixels(tile(image))
    assert shown.shape == (160, 80, 3)
    assert np.abs(shown.astype(int) - (200, 30, 40)).max() < 6


def test_weights_cover_their_patches():
    image = np.full((4, 6, 3), 100, np.uint8)
    weights = np.zeros((2, 2), np.float32)
    weights[1, 0] = 0.3
    shown = overlay(image, weights).astype(int)
    bright = shown.sum(axis=2) > 350
    assert bright[2:, :3].all()
    assert bright.sum() == 6
    assert len(np.unique(shown[~bright])) == len(np.unique(shown[0, 0]))  # all that get nothing look the same
    assert overlay(image, np.zeros((2, 2), np.float32)).shape == image.shape


def test_maps_lie_where_their_patches_are():
    rows, columns = 2, 3
    similarity = np.zeros((rows, columns, rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            similarity[row, column, row, column] = 1
    uri, count, low = similarity_maps(similarity)
    assert (count, low) == ((2, 3), 0.0)
    shown = _pixels(uri)
    factor = shown.shape[1] // (3 * 4 - 1)
    sheet = shown[::factor, ::factor]
    assert sheet.shape == (2 * 3 - 1, 3 * 4 - 1, 4)
    brightest = tuple(int(similarity_colours()[-1][place : place + 2], 16) for place in (1, 3, 5))
    found = np.argwhere((sheet[..., :3] == brightest).all(axis=2)).tolist()
    assert found == sorted([row * 3 + row, column * 4 + column] for row in range(rows) for column in range(columns))
    assert (sheet[2, :, 3] == 0).all()  # between the maps nothing hides the page
    assert (sheet[:2, :3, 3] == 255).all()


def test_large_grids_are_thinned():
    similarity = np.ones((16, 20, 16, 20), np.float32)
    assert similarity_maps(similarity)[1:] == ((14, 14), 1.0)


def test_a_file_is_taken_byte_for_byte(tmp_path: Path):
    path = tmp_path / "a.png"
    Image.new("RGB", (3, 2), "red").save(path)
    assert base64.b64decode(png_file(path).partition(",")[2]) == path.read_bytes()
    path.write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"a\.png: not a PNG file; remove it"):
        png_file(path)
