"""Every way from bytes to a view against Pillow on the same box: mean difference in grey levels, and PSNR in dB."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from data_pipeline.augment import CenterCrop, Crop, RandomResizedCrop
from data_pipeline.decode import read_strictly
from data_pipeline.device_images import DeviceImages
from data_pipeline.randomness import Draws
from data_pipeline.reencode import shrink
from data_pipeline.view_pixels import ViewDecoder, jpeg_scale, snap

SAMPLES = Path(__file__).parents[3] / "shared/data/imagenet_samples/train.parquet"
pytestmark = pytest.mark.skipif(not SAMPLES.exists(), reason=f"{SAMPLES} is absent")
EVERY = 5  # of the 200 photographs

Path_ = Callable[[bytes, np.ndarray, Crop, tuple[int, int]], np.ndarray]


@pytest.fixture(scope="module")
def photographs() -> list[tuple[bytes, np.ndarray]]:
    """Bytes, and upright pixels."""
    column = pyarrow.parquet.read_table(SAMPLES, columns=["image"])["image"]
    data = [column[number]["bytes"].as_py() for number in range(0, len(column), EVERY)]
    return [(image, read_strictly(image)[1]) for image in data]


def by_pillow(pixels: np.ndarray, crop: Crop, size: tuple[int, int], scale: int = 1) -> np.ndarray:
    """The box that is really read, cropped and resized by Pillow from all pixels."""
    left, top, width, height = (value * scale for value in snap(crop, scale))
    right, bottom = min(left + width, pixels.shape[1]), min(top + height, pixels.shape[0])
    box = Image.fromarray(np.ascontiguousarray(pixels)).crop((left, top, right, bottom))
    shown = np.asarray(box.resize(size[::-1], Image.Resampling.BICUBIC))
    return shown[:, ::-1] if crop.mirrored else shown


def quality(pairs: Iterator[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Mean difference in grey levels and PSNR in dB, over all pixels of pairs of views."""
    differences = [found.astype(np.float64) - expected for found, expected in pairs]
    mean = float(np.mean([np.abs(difference).mean() for difference in differences]))
    squared = float(np.mean([np.square(difference).mean() for difference in differences]))
    return mean, 10 * math.log10(255**2 / squared)


def crops(photographs: list[tuple[bytes, np.ndarray]], side: int) -> Iterator[tuple[bytes, np.ndarray, Crop]]:
    view = RandomResizedCrop((side, side))
    for number, (data, pixels) in enumerate(photographs):
        yield data, pixels, view.draw(Draws(side, number), pixels.shape[1], pixels.shape[0])


def decoded(data: bytes, pixels: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
    facts, _ = read_strictly(data)
    return ViewDecoder().views(data, (facts.width, facts.height), facts.orientation, [(crop, size)])[0].copy()


def decoded_whole(data: bytes, pixels: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
    """As where the library that decodes regions is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_pipeline.region_decoder._load", lambda: None)
        return decoded(data, pixels, crop, size)


def from_memory(data: bytes, pixels: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
    return ViewDecoder().views_of(pixels, [(crop, size)])[0]


@pytest.mark.parametrize("path", [decoded, decoded_whole, from_memory])
def test_at_the_usual_size_a_twentieth_of_a_grey_level(photographs: list[tuple[bytes, np.ndarray]], path: Path_):
    pairs = []
    for data, pixels, crop in crops(photographs, 224):
        if jpeg_scale(crop, (224, 224)) == 1:
            pairs.append((path(data, pixels, crop, (224, 224)), by_pillow(pixels, crop, (224, 224))))
    mean, decibels = quality(iter(pairs))
    assert len(pairs) > 30
    assert mean < 0.06, mean
    assert decibels > 60, decibels


def test_all_ways_give_the_same_pixels(photographs: list[tuple[bytes, np.ndarray]]):
    size, met = (224, 224), 0
    for data, pixels, crop in crops(photographs, 224):
        if jpeg_scale(crop, size) > 1:
            continue
        found = decoded(data, pixels, crop, size)
        np.testing.assert_array_equal(found, decoded_whole(data, pixels, crop, size))
        np.testing.assert_array_equal(found, from_memory(data, pixels, crop, size))
        met += 1
    assert met > 30


def test_views_made_on_a_device_are_the_same_pixels(photographs: list[tuple[bytes, np.ndarray]]):
    few = [(data, pixels) for data, pixels in photographs if max(pixels.shape) <= 500][:8]
    view = RandomResizedCrop((224, 224))
    sizes = np.array([pixels.shape[:2] for _, pixels in few], np.int64)
    images = DeviceImages((pixels for _, pixels in few), sizes, 3, view, torch.device("cpu"), has_jpeg=True)
    keys = np.array([Draws(3, number)._key for number in range(len(few))], np.uint64)
    found = images.views(view, np.arange(len(few)), keys)
    for number, (data, pixels) in enumerate(few):
        crop = view.draw(Draws(3, number), pixels.shape[1], pixels.shape[0])
        np.testing.assert_array_equal(found[number].numpy(), decoded(data, pixels, crop, (224, 224)))


@pytest.mark.parametrize(("side", "scale"), [(88, 2), (44, 4), (20, 8)])
def test_decoding_at_a_fraction_stays_within_a_grey_level(
    photographs: list[tuple[bytes, np.ndarray]], side: int, scale: int
):
    pairs = []
    for data, pixels in photographs:
        height, width, _ = pixels.shape
        crop = CenterCrop((side, side), 0.95).draw(Draws(0), width, height)
        if jpeg_scale(crop, (side, side)) == scale:
            size = (side, side)
            pairs.append((decoded(data, pixels, crop, size), by_pillow(pixels, crop, size, scale)))
    mean, decibels = quality(iter(pairs))
    assert len(pairs) > 10
    assert mean < 0.9, mean
    assert decibels > 45, decibels


def test_shards_at_256_cost_about_four_grey_levels(photographs: list[tuple[bytes, np.ndarray]]):
    """So that writing them smaller is a user's explicit choice; and the loader adds nothing to that."""
    found, added = [], []
    for _data, pixels, crop in crops(photographs, 224):
        shrunk = shrink(pixels, 256, 90)
        if shrunk is None or jpeg_scale(crop, (224, 224)) > 1:
            continue
        smaller, (width, height) = shrunk
        part = width / pixels.shape[1], height / pixels.shape[0]
        box = Crop(
            round(crop.left * part[0]),
            round(crop.top * part[1]),
            max(1, min(width - round(crop.left * part[0]), round(crop.width * part[0]))),
            max(1, min(height - round(crop.top * part[1]), round(crop.height * part[1]))),
            crop.mirrored,
        )
        shown = decoded(smaller, pixels, box, (224, 224))
        found.append((shown, by_pillow(pixels, crop, (224, 224))))
        added.append((shown, by_pillow(read_strictly(smaller)[1], box, (224, 224))))
    mean, decibels = quality(iter(found))
    assert 2 < mean < 6, mean
    assert decibels > 26, decibels
    assert quality(iter(added))[0] < 0.06
