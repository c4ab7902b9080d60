"""Pixels to what a model sees, and back, of any type and any number of channels."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from data_pipeline.description import statistics_of
from data_pipeline.manifest import Manifest, Split, Statistics
from data_pipeline.rows import Part
from data_pipeline.shard_content import Sums
from pretrain.pixels import Normalization, check_channels, choose_normalization


def manifest(mean: tuple[float, ...] = (0.3, 0.4, 0.5), std: tuple[float, ...] = (0.2,) * 3, **splits: Split):
    return Manifest(Path("data/mine"), None, Statistics(mean, std, (1, 1), (1, 1)), {}, splits)


def pictures(dtype: str, channels: int) -> torch.Tensor:
    """Four images whose channels differ in mean and spread; the integers use a sixteenth of their type's range."""
    noise = np.random.default_rng(0)
    channel = np.arange(1, channels + 1)
    values = noise.normal(0.02 * channel, 0.001 * channel, (4, 8, 6, channels))
    if dtype == "float32":
        return torch.from_numpy((1e4 * values).astype(np.float32))
    return torch.from_numpy((values.clip(0, 1) * np.iinfo(dtype).max).round().astype(dtype))


def test_normalising_equals_torchvision_and_is_undone():
    images = torch.randint(0, 256, (2, 6, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    normalization = choose_normalization("imagenet", manifest(train=Split("jpg", ())))
    ours = normalization.normalize(images)
    theirs = reference.normalize(images.permute(0, 3, 1, 2) / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert torch.equal(normalization.restore(ours), images)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_by_a_datasets_own_statistics_each_channel_has_mean_0_and_deviation_1(dtype: str, channels: int):
    """By the statistics that sharding computes, whatever they are of."""
    images = pictures(dtype, channels)
    sums = Sums(0, [0] * channels, [0] * channels)
    for image in images:
        sums.add(image.numpy())
    record = SimpleNamespace(shard=SimpleNamespace(samples=4), sums=sums, smallest=(6, 8), largest=(6, 8))
    found = statistics_of([record], dtype)
    seen = choose_normalization("dataset", manifest(found.mean, found.std)).normalize(images)
    assert seen.shape == (4, channels, 8, 6)
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(channels), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std((0, 2, 3), correction=0), torch.ones(channels), atol=1e-4, rtol=0)


def test_a_channel_of_one_value_becomes_zero():
    """Of floats its deviation is not quite 0: the sums are rounded."""
    images = torch.tensor([100, 7]).expand(2, 4, 4, 2).to(torch.uint8)
    own = choose_normalization("dataset", manifest((100 / 255, 7 / 255), (0.0, 0.1)))
    assert own.std == (1.0, 0.1)
    torch.testing.assert_close(own.normalize(images)[:, 0], torch.zeros(2, 4, 4), atol=1e-6, rtol=0)
    kelvin = choose_normalization("dataset", manifest((273.15, -0.5, 0.0), (2e-5, 0.02, 0.0)))
    assert kelvin.std == (1.0, 0.02, 1.0)


def test_pictures_in_eight_bits_are_shown_as_they_were():
    images = torch.randint(0, 256, (2, 6, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    normalization = Normalization((0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 0.4, 0.3, 0.2, 0.1))
    assert torch.equal(normalization.restore(normalization.normalize(images)), images)


@pytest.mark.parametrize("stored", [torch.uint16, torch.float32])
def test_other_types_are_shown_around_their_means(stored: torch.dtype):
    normalization = Normalization((0.02,), (0.001,))
    values = torch.tensor([-9.0, -3.0, -1.5, 0.0, 3.0, 9.0]).reshape(1, 1, 1, 6)
    assert normalization.restore(values, stored).flatten().tolist() == [0, 0, 64, 128, 255, 255]
    dark = pictures("uint16", 2)
    seen = Normalization((0.02, 0.04), (0.001, 0.002)).normalize(dark)
    shown = Normalization((0.02, 0.04), (0.001, 0.002)).restore(seen, stored)
    assert shown.float().std((0, 1, 2)).min() > 30, "a picture that is black in its full scale must not be so here"


@pytest.mark.parametrize(
    ("split", "found"),
    [
        (Split("npy", (), 5, "uint8"), "5 of uint8"),
        (Split("npy", (), 1, "uint16"), "1 of uint16"),
        (Split("npy", (), 3, "float32"), "3 of float32"),
    ],
)
def test_imagenets_statistics_are_refused_for_other_images(split: Split, found: str):
    message = (
        r"^--normalization imagenet is for images of 3 channels of uint8, data/mine \[test\] has "
        rf"{found}; pass --normalization dataset$"
    )
    with pytest.raises(ValueError, match=message):
        choose_normalization("imagenet", manifest(train=Split("jpg", ()), test=split))
    assert choose_normalization("dataset", manifest(test=split)).mean == (0.3, 0.4, 0.5)


def test_images_of_other_channels_than_the_encoders_are_refused_with_the_option():
    bands = manifest(train=Split("npy", (), 5), test=Split("npy", (), 4), grey=Split("jpg", ()))
    message = r"^data/mine \[train\]: expected images of 3 channels, as many as the encoder takes, got 5; pass --enc"
    with pytest.raises(ValueError, match=message + r"oder\.channels 5$"):
        check_channels(3, [Part(bands, "train")], "none")
    with pytest.raises(ValueError, match=r"got 5; give an encoder for such images with --init$"):
        check_channels(3, [Part(bands, "train")], "none", init="--init")
    with pytest.raises(ValueError, match=r"\[test\]: expected images of 5 channels.*got 4; pass --encoder.channels 4"):
        check_channels(5, [Part(bands, "train")], "test")
    with pytest.raises(ValueError, match=r"\[test\]: expected images of 5 channels"):
        check_channels(5, [Part(bands, "train"), Part(bands, "test")], "none")
    message = r"\[grey\].*got 3 \(grey pictures are read as RGB with equal channels\); pass --encoder.channels 3"
    with pytest.raises(ValueError, match=message):
        check_channels(1, [Part(bands, "grey")], "none")


def test_images_that_fit_are_let_through():
    bands = manifest(train=Split("npy", (), 5), test=Split("npy", (), 5))
    parts = [Part(bands, "train")]
    assert check_channels(5, parts, "test") is parts
