"""What augmentations go together."""

import pytest

from pretrain.augment_config import AugmentationConfig


def test_three_augment_takes_the_place_of_rand_augment():
    assert AugmentationConfig(rand_augment=None, three_augment=True, colour_jitter=0.3).three_augment
    message = (
        r"^--augmentation\.three-augment takes the place of RandAugment, and this run has rand-m9-mstd0\.5-inc1: "
        r"pass --augmentation\.rand-augment None, or --augmentation\.no-three-augment$"
    )
    with pytest.raises(ValueError, match=message):
        AugmentationConfig(three_augment=True)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_out_of_range_is_refused(strength: float):
    with pytest.raises(
        ValueError, match=rf"--augmentation.colour-jitter expects a strength from 0 to 1, got {strength}"
    ):
        AugmentationConfig(colour_jitter=strength)
