"""Interpolated position embeddings: timm's own function, and facebook's bicubic against one written out slowly."""

import math

import numpy as np
import pytest
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from pretrain.positions import interpolate_positions

GRIDS = [((14, 14), (24, 24)), ((14, 14), (10, 10)), ((4, 6), (8, 8)), ((7, 3), (3, 7))]


def random_positions(grid: tuple[int, int]) -> Tensor:
    return torch.randn(1, 1 + math.prod(grid), 8, generator=torch.Generator().manual_seed(0))


def bicubic(distance: float) -> float:
    """Keys' kernel with a = -0.75, as OpenCV and torch have it."""
    x = abs(distance)
    if x <= 1:
        return (1.25 * x - 2.25) * x * x + 1
    return ((-0.75 * x + 3.75) * x - 6) * x + 3 if x < 2 else 0.0


def weights(old: int, new: int) -> np.ndarray:
    """(new, old): how much of each old point a new one takes, pixel centres aligned, borders repeated, no filter."""
    table = np.zeros((new, old))
    for index in range(new):
        centre = (index + 0.5) * old / new - 0.5
        for source in range(math.floor(centre) - 1, math.floor(centre) + 3):
            table[index, min(max(source, 0), old - 1)] += bicubic(centre - source)
    return table


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_facebooks_mode_is_plain_bicubic(old: tuple[int, int], new: tuple[int, int]):
    positions = random_positions(old)
    found = interpolate_positions(positions, old, new, "facebook")
    patches = positions[0, 1:].reshape(*old, -1).double().numpy()
    expected = np.einsum("yr,xc,rcd->yxd", weights(old[0], new[0]), weights(old[1], new[1]), patches)
    np.testing.assert_allclose(found[0, 1:].numpy(), expected.reshape(-1, 8), atol=1e-5)
    assert torch.equal(found[:, 0], positions[:, 0])


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_timms_mode_is_timms(old: tuple[int, int], new: tuple[int, int]):
    positions = random_positions(old)
    found = interpolate_positions(positions, old, new, "timm")
    assert torch.equal(found, resample_abs_pos_embed(positions, list(new), list(old)))
    assert not torch.allclose(found, interpolate_positions(positions, old, new, "facebook"), atol=1e-3)


@pytest.mark.parametrize("mode", ["facebook", "timm"])
def test_the_same_grid_leaves_positions_alone(mode: str):
    positions = random_positions((4, 6))
    assert torch.equal(interpolate_positions(positions, (4, 6), (4, 6), mode), positions)
