"""Random erasing: how often, how large, with what, and the same at a position wherever it is computed."""

import numpy as np
import pytest
import torch

from data_pipeline.randomness import Draws
from pretrain.erasing import draw_box, erase


def test_boxes_have_timms_areas_and_aspects():
    boxes = [box for n in range(3000) if (box := draw_box(Draws(n), (64, 96))) is not None]
    assert len(boxes) > 2900
    areas = np.array([height * width / (64 * 96) for _, _, height, width in boxes])
    aspects = np.array([height / width for _, _, height, width in boxes])
    assert 0.017 < areas.min() < 0.03
    assert 0.31 < areas.max() < 0.36
    assert 0.15 < areas.mean() < 0.19
    assert 0.25 < aspects.min() < 0.4
    assert 2.5 < aspects.max() < 4
    assert all(0 <= top <= 64 - height and 0 <= left <= 96 - width for top, left, height, width in boxes)


def test_a_quarter_of_the_images_get_normal_noise_in_a_box():
    images = torch.full((2000, 3, 16, 16), 7.0)
    erased = erase(images, np.arange(2000), probability=0.25, seed=0)
    assert torch.equal(images, torch.full_like(images, 7.0)), "the input must stay as it is"
    changed = (erased != 7.0).flatten(1).any(dim=1)
    assert 0.21 < changed.double().mean().item() < 0.29
    noise = erased[erased != 7.0]
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)


def test_a_position_is_erased_alike_in_any_company():
    images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    together = erase(images, np.arange(100, 132), probability=0.5, seed=3)
    odd = erase(images[1::2], np.arange(101, 132, 2), probability=0.5, seed=3)
    assert torch.equal(together[1::2], odd)
    assert not torch.equal(together, erase(images, np.arange(100, 132), probability=0.5, seed=4))


def test_never_means_untouched():
    images = torch.randn(4, 3, 8, 8)
    assert erase(images, np.arange(4), probability=0.0, seed=0) is images
