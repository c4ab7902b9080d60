"""3-Augment (Touvron et al. 2022, arXiv:2204.07118, section 3), drawn from keys."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from data_pipeline.arrays import Pixels
from data_pipeline.randomness import Draws

_THRESHOLD = 128  # grey levels from here on are inverted
_RADII = (0.1, 2.0)  # the blur's standard deviation in pixels


@dataclass(frozen=True)
class ThreeAugment:
    """Exactly one of three, each as likely: grayscale, solarisation from 128 on, a Gaussian blur of radius .1 to 2.

    Operations and ranges are those of the released code (facebookresearch/deit, augment.py), whose recipes have
    `ColourJitter(0.3)` follow.
    """

    def __str__(self) -> str:
        return "3-Augment"

    def apply(self, draws: Draws, pixels: Pixels) -> Pixels:
        """Pixels of the same shape."""
        image, choice = Image.fromarray(pixels), draws.integer(3)
        if choice == 0:
            image = image.convert("L").convert("RGB")
        elif choice == 1:
            image = ImageOps.solarize(image, _THRESHOLD)
        else:
            image = image.filter(ImageFilter.GaussianBlur(draws.uniform(*_RADII)))
        return np.array(image)
