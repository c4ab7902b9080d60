"""Making images smaller: only those that are larger, in proportion, as Pillow resizes, and as valid as any."""

import io

import numpy as np
import pytest
from PIL import Image

from data_pipeline.decode import read_strictly
from data_pipeline.reencode import shrink


def picture(width: int, height: int) -> np.ndarray:
    """Soft blobs: what JPEG keeps well."""
    blobs = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("width", "height"), [(40, 40), (40, 90), (39, 100), (1, 1)])
def test_what_is_not_larger_is_left_alone(width: int, height: int) -> None:
    assert shrink(picture(width, height), 40, 90) is None


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(300, 200, (60, 40)), (200, 300, (40, 60)), (41, 41, (40, 40)), (641, 480, (53, 40)), (4000, 41, (3902, 40))],
)
def test_the_short_side_is_the_one_asked_for_and_the_other_in_proportion(
    width: int, height: int, expected: tuple[int, int]
) -> None:
    shrunk = shrink(picture(width, height), 40, 90)
    assert shrunk is not None
    data, size = shrunk
    facts, pixels = read_strictly(data)
    assert size == expected == (facts.width, facts.height)
    assert facts.extension == "jpg"
    assert facts.orientation == 1
    assert pixels.shape == (expected[1], expected[0], 3)


def test_what_no_jpeg_can_hold_is_left_alone() -> None:
    assert shrink(np.zeros((4, 131_002, 3), np.uint8), 2, 90) is None
    assert shrink(np.zeros((4, 131_000, 3), np.uint8), 2, 90) is not None


def test_pixels_are_those_of_pillows_bicubic() -> None:
    pixels = picture(300, 200)
    shrunk = shrink(pixels, 64, 100)
    assert shrunk is not None
    expected = np.asarray(Image.fromarray(pixels).resize((96, 64), Image.Resampling.BICUBIC))
    assert np.abs(read_strictly(shrunk[0])[1].astype(int) - expected).mean() < 1.5


def test_views_that_numpy_turned_are_taken_as_they_look() -> None:
    pixels = picture(300, 200)
    assert shrink(pixels.transpose(1, 0, 2)[:, ::-1], 64, 90) == shrink(np.rot90(pixels, -1).copy(), 64, 90)


def test_the_jpeg_is_baseline_with_halved_chroma_and_no_metadata() -> None:
    shrunk = shrink(picture(300, 200), 64, 75)
    assert shrunk is not None
    with Image.open(io.BytesIO(shrunk[0])) as image:
        assert not image.info.get("progressive")
        assert not image.getexif()
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]  # pyright: ignore


def test_quality_costs_bytes_and_the_same_is_the_same() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (90, 80, 3), np.uint8)
    sizes = []
    for quality in (1, 50, 90, 100):
        first, again = shrink(pixels, 64, quality), shrink(pixels.copy(), 64, quality)
        assert first is not None
        assert first == again
        sizes.append(len(first[0]))
    assert sizes == sorted(set(sizes))
