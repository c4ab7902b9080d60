"""Colour jitter: brightness, contrast and saturation by random factors, one after another in a random order."""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from PIL import Image, ImageEnhance

from data_pipeline.arrays import Pixels
from data_pipeline.randomness import Draws

_ENHANCEMENTS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
_ORDERS = tuple(permutations(_ENHANCEMENTS))


@dataclass(frozen=True)
class ColourJitter:
    """Same distribution as torchvision's `ColorJitter(strength, strength, strength)`: hue stays as it is.

    Each of the three factors is uniform in [1 - strength, 1 + strength], and not below 0; 1 changes nothing.

    Raises:
        ValueError: a strength that is not above 0.
    """

    strength: float

    def __post_init__(self) -> None:
        if not self.strength > 0:
            raise ValueError(f"ColourJitter: strength {self.strength}, expected above 0; or leave the policy out")

    def __str__(self) -> str:
        return f"colour jitter {self.strength:g}"

    def apply(self, draws: Draws, pixels: Pixels) -> Pixels:
        """Pixels of the same shape."""
        low, high = max(0.0, 1 - self.strength), 1 + self.strength
        factors = {enhancement: draws.uniform(low, high) for enhancement in _ENHANCEMENTS}
        image = Image.fromarray(pixels)
        for enhancement in _ORDERS[draws.integer(len(_ORDERS))]:
            image = enhancement(image).enhance(factors[enhancement])
        return np.array(image)
