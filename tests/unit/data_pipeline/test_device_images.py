"""Images on a device: the views of workers, and what is refused before it would show anything else."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline import device_images, resampling
from data_pipeline.augment import CenterCrop, MultiView, RandomResizedCrop, View, Views
from data_pipeline.crop_boxes import keys_of
from data_pipeline.decode import Box
from data_pipeline.device_images import DeviceImages, bytes_needed, check_images
from data_pipeline.manifest import DatasetError
from data_pipeline.rand_augment import RandAugment
from data_pipeline.randomness import Draws
from data_pipeline.view_pixels import view_of

CPU = torch.device("cpu")
CROP, CENTRE = RandomResizedCrop((12, 10)), CenterCrop((9, 9), 0.875)


def pictures(count: int, channels: int = 3) -> list[np.ndarray]:
    random = np.random.default_rng(count)
    sizes = random.integers(6, 39, (count, 2))
    return [random.integers(0, 256, (height, width, channels), np.uint8) for height, width in sizes.tolist()]


def sizes_of(images: list[np.ndarray]) -> np.ndarray:
    return np.asarray([image.shape[:2] for image in images])


def held(images: list[np.ndarray], views: Views, **options: Any) -> DeviceImages:
    arguments = {"channels": images[0].shape[2], "views": views, "device": CPU, "has_jpeg": True, **options}
    return DeviceImages(images, sizes_of(images), **arguments)


def alone(image: np.ndarray, view: View, words: list[int]) -> np.ndarray:
    """The view as a worker makes it."""
    height, width = image.shape[:2]
    *box, mirrored = view.draw(Draws(*words), width, height)
    return view_of(image, Box(*box), view.size, mirrored)


@pytest.mark.parametrize("channels", [1, 3, 7])
def test_views_are_those_that_workers_make_one_by_one(channels: int, monkeypatch: pytest.MonkeyPatch):
    images = pictures(25, channels)
    height, width = sizes_of(images).max(0)
    monkeypatch.setattr(device_images, "_BYTES_AT_A_TIME", 7 * height * width * channels)  # copied in pieces of seven
    data = held(images, MultiView(((CROP, 2), (CENTRE, 1))))
    assert len(data) == 25
    random = np.random.default_rng(0)
    samples, words = random.integers(0, 25, 200), random.integers(0, 2**64, (200, 6), np.uint64)
    for view in (CROP, CENTRE):
        shown = data.views(view, samples, keys_of(words))
        assert (shown.dtype, shown.shape) == (torch.uint8, (200, *view.size, channels))
        expected = [alone(images[sample], view, own) for sample, own in zip(samples, words.tolist(), strict=True)]
        np.testing.assert_array_equal(shown.numpy(), np.stack(expected))


def test_images_may_come_one_after_another():
    images = pictures(5)

    def decoding() -> Iterator[np.ndarray]:
        for image in images:
            yield image[::-1, ::-1][::-1, ::-1]  # strided, as orientations leave them

    data = DeviceImages(decoding(), sizes_of(images), 3, CENTRE, CPU, has_jpeg=False)
    shown = data.views(CENTRE, np.asarray([4]), np.zeros(1, np.uint64))
    np.testing.assert_array_equal(shown[0].numpy(), alone(images[4], CENTRE, [0]))


def test_pixels_other_than_those_promised_are_refused():
    images = pictures(3)
    for wrong, found in (
        (images[1][:-1], r"shape \(\d+, \d+, 3\) and uint8"),
        (images[1][..., :1], r"shape \(\d+, \d+, 1\) and uint8"),
        (images[1].astype(np.uint16), r"shape \(\d+, \d+, 3\) and uint16"),
    ):
        message = rf"^image 1 has pixels of {found}, its index says \(\d+, \d+, 3\) of uint8; verify the dataset"
        with pytest.raises(DatasetError, match=message):
            DeviceImages([images[0], wrong, images[2]], sizes_of(images), 3, CROP, CPU, has_jpeg=True)


def test_only_uint8_is_held():
    with pytest.raises(
        ValueError, match=r"^--cache device: resizes uint8, these images are float32; use --cache memory"
    ):
        check_images(np.asarray([[8, 8]]), 3, "float32", CROP, CPU, has_jpeg=False)


def test_views_that_are_not_made_in_batches_are_refused():
    policy = RandomResizedCrop((8, 8), policy=RandAugment("rand-m9"))
    with pytest.raises(ValueError, match=r"^--cache device: rand-m9 changes the pixels"):
        check_images(np.asarray([[8, 8]]), 3, "uint8", MultiView(((CROP, 1), (policy, 1))), CPU, has_jpeg=True)


def test_jpegs_that_workers_would_decode_at_a_fraction_are_refused():
    small, large = np.asarray([[47, 1000], [1000, 39]]), np.asarray([[8, 8], [48, 40]])
    check_images(small, 3, "uint8", CROP, CPU, has_jpeg=True)
    check_images(large, 3, "uint8", CROP, CPU, has_jpeg=False)
    message = "of a JPEG of 40 x 48 pixels views of 10 x 12 are decoded at up to 1/2 of its size.*use --cache memory"
    with pytest.raises(ValueError, match=message):
        check_images(large, 3, "uint8", CROP, CPU, has_jpeg=True)
    fine = RandomResizedCrop((13, 10))  # an image is decoded for its finest view
    check_images(large, 3, "uint8", MultiView(((CROP, 1), (fine, 1))), CPU, has_jpeg=True)
    with pytest.raises(ValueError, match="views of 10 x 12 and 9 x 9 are decoded at up to 1/2"):
        check_images(large, 3, "uint8", MultiView(((CROP, 1), (CENTRE, 1))), CPU, has_jpeg=True)


def test_what_does_not_fit_is_refused_beforehand(monkeypatch: pytest.MonkeyPatch):
    sizes = np.full((1_000_000, 2), (64, 48))
    assert bytes_needed(sizes, 3) == 1_000_000 * 64 * 48 * 3
    monkeypatch.setattr(device_images, "_free_bytes", lambda device: 16_000_000_000)
    check_images(sizes, 3, "uint8", RandomResizedCrop((32, 32)), CPU, has_jpeg=True)
    sizes[17] = 30, 96
    message = (
        r"^--cache device: 1,000,000 images padded to 96 x 64 pixels take 18.4 GB on cpu, where 16.0 GB are free, of "
        r"which 60% may be taken; use --cache memory, which pads nothing, or --cache none$"
    )
    with pytest.raises(ValueError, match=message):
        check_images(sizes, 3, "uint8", RandomResizedCrop((32, 32)), CPU, has_jpeg=True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=r"take 36.9 GB in 4 processes on cpu"):
        check_images(sizes[1::2], 3, "uint8", RandomResizedCrop((32, 32)), CPU, has_jpeg=True)
    elsewhere = torch.device("meta")  # as any other device: each process has its own
    with pytest.raises(ValueError, match=r"take 18.4 GB on meta, where 16.0 GB are free, of which 80% may be taken"):
        check_images(sizes, 3, "uint8", RandomResizedCrop((32, 32)), elsewhere, has_jpeg=True)


def test_free_memory_is_known_of_a_cpu():
    free = device_images._free_bytes(CPU)
    assert free is not None
    assert 1e6 < free < 1e15
    assert device_images._free_bytes(torch.device("meta")) is None


def test_another_rule_of_resizing_is_noticed(monkeypatch: pytest.MonkeyPatch):
    rule = resampling.filter_weights

    def altered(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        first, weights = rule(length, size)
        weights[0, 0] += 1 << 8  # one unit of 14 bits
        return first, weights

    monkeypatch.setattr(resampling, "filter_weights", altered)
    with pytest.raises(
        ValueError, match=r"^--cache device: views made on cpu are not those that torch .*--cache memory"
    ):
        held(pictures(3), RandomResizedCrop((32, 32)))
