"""How supervised runs show their training images: a random crop, and the policies that the config asks for."""

from data_pipeline.augment import RandomResizedCrop
from data_pipeline.colour_jitter import ColourJitter
from data_pipeline.policy import InTurn, Policy
from data_pipeline.rand_augment import RandAugment
from data_pipeline.three_augment import ThreeAugment
from pretrain.augment_config import AugmentationConfig
from pretrain.pixels import Normalization


def training_view(
    augmentation: AugmentationConfig, size: tuple[int, int], normalization: Normalization
) -> RandomResizedCrop:
    """The view of `size` (height, width); what RandAugment moves in has the colour of the normalisation's mean.

    Raises:
        ValueError: policies for images of other than three channels.
    """
    policies: list[Policy] = []
    if augmentation.rand_augment is not None:
        _check_channels(f"rand-augment {augmentation.rand_augment}", "rand-augment None", normalization)
        red, green, blue = (min(255, round(255 * value)) for value in normalization.mean)
        policies.append(RandAugment(augmentation.rand_augment, (red, green, blue)))
    if augmentation.three_augment:
        _check_channels("three-augment", "no-three-augment", normalization)
        policies.append(ThreeAugment())
    if augmentation.colour_jitter > 0:
        _check_channels(f"colour-jitter {augmentation.colour_jitter:g}", "colour-jitter 0", normalization)
        policies.append(ColourJitter(augmentation.colour_jitter))
    policy = InTurn(tuple(policies)) if len(policies) > 1 else next(iter(policies), None)
    return RandomResizedCrop(size, augmentation.crop_scale, mirror=augmentation.mirror, policy=policy)


def _check_channels(asked: str, instead: str, normalization: Normalization) -> None:
    if len(normalization.mean) != 3:
        raise ValueError(
            f"--augmentation.{asked}: changes images of 3 channels only, and these have {len(normalization.mean)}; "
            f"pass --augmentation.{instead}"
        )
