"""Mixup and CutMix over a global batch, on any number of processes; smoothed labels.

The row at run position p is mixed with that at p + B/2, B the global batch: both are on the same rank where twice the
number of ranks divides B. What is drawn belongs to the batch: a function of the seed and its first position.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_pipeline.order import Integers
from data_pipeline.randomness import Draws, Purpose
from pretrain.augment_config import MixingConfig


class Mix(NamedTuple):
    """How a batch is mixed: a row keeps `share` of itself; with a box (top, bottom, left, right) its pixels there are
    the partner's, without one all are weighted.
    """

    share: float
    box: tuple[int, int, int, int] | None


def check_pairs(batch_size: int, world: int) -> None:
    """Raise ValueError unless each row's partner in mixing is on the same process."""
    if batch_size % (2 * world):
        near = max(1, batch_size // (2 * world)) * 2 * world
        raise ValueError(
            f"--batch-size {batch_size} is not divisible by 2 x {world} processes, which mixing of pairs needs; "
            f"the nearest that are: {near}, {near + 2 * world}; or turn it off: --mixing.mixup 0 --mixing.cutmix 0"
        )


def draw_mix(config: MixingConfig, draws: Draws, size: tuple[int, int]) -> Mix:
    """One batch's mixing of images of `size` (height, width): mixup's share from Beta(mixup, mixup), or a box that is
    cut off at the border, whose area is then the partner's share.
    """
    is_cut = config.cutmix > 0 and (config.mixup == 0 or draws.uniform() < 0.5)
    share = draws.beta(config.cutmix if is_cut else config.mixup)
    if not is_cut:
        return Mix(share, None)
    bounds: list[int] = []
    for length in size:
        half = int(length * math.sqrt(1 - share)) // 2
        centre = draws.integer(length)
        bounds += [max(0, centre - half), min(length, centre + half)]
    top, bottom, left, right = bounds
    return Mix(1 - (bottom - top) * (right - left) / (size[0] * size[1]), (top, bottom, left, right))


def mix_images(images: Float[Tensor, "b c h w"], mix: Mix) -> Float[Tensor, "b c h w"]:
    """Each row with its partner's, half of the rows further on."""
    partners = images.roll(len(images) // 2, dims=0)
    if mix.box is None:
        return images.lerp(partners, 1 - mix.share)
    top, bottom, left, right = mix.box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    return mixed


def soft_targets(labels: Int[Tensor, " b"], classes: int, smoothing: float) -> Float[Tensor, "b classes"]:
    """Smoothed labels (Szegedy et al. 2016, arXiv:1512.00567, section 7). A row without a label has no target: an image
    may be such that stands in for one that does not decode.
    """
    targets = torch.full((len(labels), classes), smoothing / classes, device=labels.device)
    targets.scatter_(1, labels.clamp(min=0)[:, None], 1 - smoothing + smoothing / classes)
    targets *= (labels >= 0)[:, None]
    return targets


def mix_targets(targets: Float[Tensor, "b classes"], share: float) -> Float[Tensor, "b classes"]:
    """`share` of a row's own and the rest of its partner's."""
    return targets if share == 1 else targets.lerp(targets.roll(len(targets) // 2, dims=0), 1 - share)


def mix_batch(
    images: Float[Tensor, "b c h w"],
    targets: Float[Tensor, "b classes"],
    positions: Integers,
    config: MixingConfig,
    *,
    batch_size: int,
    seed: int,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b classes"]]:
    """A process's rows of a global batch of `batch_size`, at their run positions, mixed if the config asks for it."""
    if not config.is_on:
        return images, targets
    first = int(positions[0]) // batch_size * batch_size
    mix = draw_mix(config, Draws(seed, first, Purpose.MIXING), (images.shape[2], images.shape[3]))
    return mix_images(images, mix), mix_targets(targets, mix.share)
