"""Pixels to what a model sees, and back."""

from pathlib import Path

import torch
from torchvision.transforms.v2 import functional as reference

from data_pipeline.manifest import Manifest, Statistics
from pretrain.pixels import choose_normalization


def manifest(std: float) -> Manifest:
    return Manifest(Path("d"), None, Statistics((0.3, 0.4, 0.5), (std,) * 3, (1, 1), (1, 1)), {}, {})


def test_normalising_equals_torchvision_and_is_undone():
    images = torch.randint(0, 256, (2, 6, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    normalization = choose_normalization("imagenet", manifest(0.2))
    ours = normalization.normalize(images)
    theirs = reference.normalize(images.permute(0, 3, 1, 2) / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert torch.equal(normalization.restore(ours), images)


def test_the_datasets_own_statistics_and_images_of_one_colour():
    assert choose_normalization("dataset", manifest(0.2)).mean == (0.3, 0.4, 0.5)
    assert choose_normalization("dataset", manifest(0.0)).std == (1 / 255,) * 3
