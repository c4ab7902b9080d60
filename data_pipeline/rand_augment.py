"""RandAugment (Cubuk et al. 2020, arXiv:1909.13719) as timm implements it, drawn from keys."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from data_pipeline.arrays import Pixels
from data_pipeline.randomness import Draws, seeded_libraries


@dataclass(frozen=True)
class RandAugment:
    """Random operations on colours and geometry.

    `policy` is in timm's notation: `rand-m9-mstd0.5-inc1` is two operations, each half of the time, of magnitude 9
    with a deviation of .5, in the set that grows stronger with it. `fill` is the colour (0-255) of what comes in.
    """

    policy: str
    fill: tuple[int, int, int] = (128, 128, 128)

    def __str__(self) -> str:
        return self.policy

    def apply(self, draws: Draws, pixels: Pixels) -> Pixels:
        """Pixels of the same shape."""
        transform = _transform(self.policy, self.fill, min(pixels.shape[:2]))
        with seeded_libraries(draws.seed()):
            return np.array(transform(Image.fromarray(pixels)))


@cache
def _transform(policy: str, fill: tuple[int, int, int], side: int) -> Any:
    from timm.data.auto_augment import rand_augment_transform  # importing timm takes seconds

    # As timm's train.py sets them: translations up to 45 % of the side, bicubic.
    hints = {"translate_const": int(side * 0.45), "img_mean": fill, "interpolation": Image.Resampling.BICUBIC}
    transform = rand_augment_transform(policy, hints)
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Timm asks for 0 bits at full magnitude, which is black, and which Pillow refuses since version 12."""
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)
