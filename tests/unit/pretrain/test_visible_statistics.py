"""Hidden patches get what the visible ones around them have, and nothing of their own."""

import math

import pytest
import torch

from pretrain.visible_statistics import interpolate_hidden


def test_one_hidden_patch_between_two_by_hand():
    # Patches 2 pixels wide, in a row of three: the hidden one is 2 from either, and in the second image 4 and 2.
    values = torch.tensor([[[0.0], [99.0], [6.0]], [[0.0], [9.0], [99.0]]])
    visible = torch.tensor([[True, False, True], [True, True, False]])
    found = interpolate_hidden(values, visible, (1, 3), (8, 2))
    near, far = 2**-3, 4**-3
    expected = torch.tensor([[[0.0], [3.0], [6.0]], [[0.0], [9.0], [9.0 * near / (near + far)]]])
    torch.testing.assert_close(found, expected)


def test_distances_are_in_pixels_not_in_patches():
    values = torch.tensor([[[1.0], [0.0], [5.0], [0.0]]])  # of 2 x 2 patches: above, right of that, below
    visible = torch.tensor([[False, True, True, False]])
    tall, wide = (interpolate_hidden(values, visible, (2, 2), patch)[0, 0, 0] for patch in ((16, 4), (4, 16)))
    assert tall == pytest.approx(5 * 16**-3 / (16**-3 + 4**-3))
    assert wide == pytest.approx(5 * 4**-3 / (16**-3 + 4**-3))


def test_hidden_values_do_not_matter_and_visible_ones_stay():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 24, 2, generator=generator)
    visible = torch.rand(3, 24, generator=generator) < 0.25
    visible[:, 7] = True
    found = interpolate_hidden(values, visible, (4, 6), (4, 4))
    assert torch.equal(found[visible], values[visible])
    unknown = torch.where(visible[..., None], values, math.nan)
    assert torch.equal(interpolate_hidden(unknown, visible, (4, 6), (4, 4)), found)
    low, high = (getattr(torch, extreme)(values, dim=1, keepdim=True).values for extreme in ("min", "max"))
    assert bool(((found >= low) & (found <= high)).all())


def test_what_is_the_same_everywhere_stays_the_same():
    values = torch.full((1, 9, 1), 0.3)
    visible = torch.zeros(1, 9, dtype=torch.bool)
    visible[0, 4] = True
    torch.testing.assert_close(interpolate_hidden(values, visible, (3, 3), (2, 2)), values)
