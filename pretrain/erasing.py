"""Random erasing (Zhong et al. 2020, arXiv:1708.04896): a box of an image becomes noise, after normalisation."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from data_pipeline.order import Integers
from data_pipeline.randomness import Draws, Purpose

_AREA = (0.02, 1 / 3)
_ASPECT = (0.3, 1 / 0.3)


def erase(
    images: Float[Tensor, "b c h w"], positions: Integers, *, probability: float, seed: int
) -> Float[Tensor, "b c h w"]:
    """Replace a box by normal noise in so many of the images, as timm's train.py does in mode `pixel`.

    Boxes are functions of seed and run position; the noise is one on each kind of device.
    """
    if probability == 0:
        return images
    images = images.clone()
    size = (images.shape[2], images.shape[3])
    for image, position in zip(images, positions.tolist(), strict=True):
        draws = Draws(seed, position, Purpose.ERASING)
        box = draw_box(draws, size) if draws.uniform() < probability else None
        if box is not None:
            top, left, height, width = box
            generator = torch.Generator(images.device).manual_seed(draws.seed())
            shape = (images.shape[1], height, width)
            noise = torch.randn(shape, generator=generator, device=images.device)
            image[:, top : top + height, left : left + width] = noise
    return images


def draw_box(draws: Draws, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Top, left, height and width of a box in an image of `size` (height, width): 2 to 33 % of the area, height over
    width .3 to 3.3; None where ten attempts were too long for the image.
    """
    low, high = math.log(_ASPECT[0]), math.log(_ASPECT[1])
    for _ in range(10):
        area, aspect = size[0] * size[1] * draws.uniform(*_AREA), math.exp(draws.uniform(low, high))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < size[0] and width < size[1]:
            return draws.integer(size[0] - height + 1), draws.integer(size[1] - width + 1), height, width
    return None
