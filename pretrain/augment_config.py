"""What is done to training images and labels beside cropping, as frozen dataclasses that import nothing heavy."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class AugmentationConfig:
    """How training images are varied. Defaults: He et al. 2022 (arXiv:2111.06377), appendix A.1, Table 9.

    Raises:
        ValueError: a number lies outside its range, a policy is not in timm's notation, or two are given where one is
            possible.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of an image's area that a random crop shows."""
    mirror: float = 0.5
    """Probability of a horizontal flip; 0 where left and right differ in meaning, as in writing."""
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    """RandAugment in timm's notation; None for none."""
    erasing: float = 0.25
    """Probability that a random box of an image is replaced by noise."""
    three_augment: bool = False
    """3-Augment (Touvron et al. 2022, arXiv:2204.07118) in RandAugment's place: grayscale, solarisation or blur."""
    colour_jitter: float = 0.0
    """Strength by which brightness, contrast and saturation vary, after the above: .3 for factors from .7 to 1.3."""

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(
                "--augmentation.crop-scale expects two shares of the area, the smaller first, such as 0.08 1, "
                f"got {low} {high}"
            )
        for option in ("mirror", "erasing"):
            if not 0 <= getattr(self, option) <= 1:
                raise ValueError(
                    f"--augmentation.{option} expects a probability from 0 to 1, got {getattr(self, option)}"
                )
        if self.rand_augment is not None and not re.fullmatch(
            r"rand(-(m\d+|n\d+|p[\d.]+|mstd[\d.]+|mmax\d+|inc[01]|t\w+))*", self.rand_augment
        ):
            raise ValueError(
                f"--augmentation.rand-augment {self.rand_augment} is not in timm's notation; "
                "pass such as rand-m9-mstd0.5-inc1, or None"
            )
        if self.three_augment and self.rand_augment is not None:
            raise ValueError(
                f"--augmentation.three-augment takes the place of RandAugment, and this run has {self.rand_augment}: "
                "pass --augmentation.rand-augment None, or --augmentation.no-three-augment"
            )
        if not 0 <= self.colour_jitter <= 1:
            raise ValueError(f"--augmentation.colour-jitter expects a strength from 0 to 1, got {self.colour_jitter}")


@dataclass(frozen=True)
class MixingConfig:
    """How images and labels of a batch are mixed, and labels smoothed. Defaults: as AugmentationConfig's.

    In each batch one share is drawn, for mixup (Zhang et al. 2018, arXiv:1710.09412) or for CutMix (Yun et al. 2019,
    arXiv:1905.04899), half of the time each where both are on.

    Raises:
        ValueError: a number lies outside its range.
    """

    mixup: float = 0.8
    """Alpha of the Beta distribution of mixup's shares; 0 for no mixup."""
    cutmix: float = 1.0
    """Alpha of the Beta distribution of CutMix's shares; 0 for no CutMix."""
    label_smoothing: float = 0.1
    """Share of each label that is spread over all classes."""

    def __post_init__(self) -> None:
        for option in ("mixup", "cutmix"):
            if not 0 <= getattr(self, option) <= 10:
                raise ValueError(f"--mixing.{option} expects 0 to 10, got {getattr(self, option)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"--mixing.label-smoothing expects a share in [0, 1), got {self.label_smoothing}")

    @property
    def is_on(self) -> bool:
        """Whether images are mixed at all."""
        return self.mixup > 0 or self.cutmix > 0
