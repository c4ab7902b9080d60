"""From the options of a run to the view that its stream shows."""

import pytest

from data_pipeline.augment import RandomResizedCrop
from data_pipeline.colour_jitter import ColourJitter
from data_pipeline.policy import InTurn, Policy
from data_pipeline.rand_augment import RandAugment
from data_pipeline.three_augment import ThreeAugment
from pretrain.augment_config import AugmentationConfig
from pretrain.pixels import Normalization
from pretrain.training_view import training_view

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BANDS = Normalization((0.5,) * 4, (0.2,) * 4)
RAND = RandAugment("rand-m9-mstd0.5-inc1", (124, 116, 104))


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ({}, RAND),
        ({"rand_augment": None}, None),
        ({"rand_augment": None, "colour_jitter": 0.4}, ColourJitter(0.4)),
        ({"rand_augment": None, "three_augment": True}, ThreeAugment()),
        (
            {"rand_augment": None, "three_augment": True, "colour_jitter": 0.3},
            InTurn((ThreeAugment(), ColourJitter(0.3))),
        ),
        ({"colour_jitter": 0.3}, InTurn((RAND, ColourJitter(0.3)))),
    ],
)
def test_policies_are_those_asked_for_in_their_order(options: dict, policy: Policy | None):
    augmentation = AugmentationConfig(crop_scale=(0.3, 0.9), mirror=0.25, **options)
    expected = RandomResizedCrop((32, 48), (0.3, 0.9), mirror=0.25, policy=policy)
    assert training_view(augmentation, (32, 48), IMAGENET) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            r"^--augmentation\.rand-augment rand-m9\S+: changes images of 3 .* have 4; pass --\S+\.rand-augment None$",
        ),
        ({"rand_augment": None, "three_augment": True}, r"three-augment: .* pass --augmentation\.no-three-augment$"),
        ({"rand_augment": None, "colour_jitter": 0.3}, r"colour-jitter 0\.3: .* pass --augmentation\.colour-jitter 0$"),
    ],
)
def test_images_without_three_channels_take_no_policies(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        training_view(AugmentationConfig(**options), (8, 8), BANDS)
    plain = AugmentationConfig(rand_augment=None)
    assert training_view(plain, (8, 8), BANDS).policy is None
