"""Mixup and CutMix over a global batch, on any number of processes; smoothed labels.

The row at run position p is mixed with that at p + B/2, B the global batch: both are on the same rank where twice the
number of ranks divides B. What is drawn belongs to the batch: a function of the seed and its first position.
"""

import math
from itertools import count, islice
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_pipeline.order import SMALL_WORLD_LANES, Integers
from data_pipeline.randomness import Draws, Purpose
from pretrain.augment_config import MixingConfig


class Mix(NamedTuple):
    """How a batch is mixed: a row keeps `share` of itself; with a box (top, bottom, left, right) its pixels there are
    the partner's, without one all are weighted.
    """

    share: float
    box: tuple[int, int, int, int] | None


def check_pairs(batch_size: int, world: int, *, views: int = 1, lanes: int = SMALL_WORLD_LANES) -> None:
    """Refuse a batch size by which mixing would need rows of two processes, or would mix an image with itself.

    View v of a sample lies `lanes` positions after view v - 1 (see `data_pipeline.order`), so half a batch must not be
    fewer than `views` times the lanes where it is a multiple of them. Then no row's partner is another view of its
    sample, except where an epoch ends: in its last, shorter row of lanes, whose views lie closer, and by chance where
    the sample that ends an epoch comes early in the next.

    Args:
        batch_size: rows of a global batch.
        world: number of processes.
        views: how often an epoch shows a sample.
        lanes: those of the plan, or all samples of an epoch where they are fewer.

    Raises:
        ValueError: naming the nearest batch sizes that are accepted.
    """
    step = 2 * world

    def mixes_views(size: int) -> bool:
        return size // 2 % lanes == 0 and size // 2 // lanes < views

    if batch_size % step:
        reason = f"is not divisible by 2 x {world} processes, which mixing of pairs needs"
    elif mixes_views(batch_size):
        apart = f"{batch_size // 2 // lanes} x {lanes} positions"
        reason = f"pairs rows {apart} apart for mixing: of {views} views of an image, one would be mixed with another"
    else:
        return
    start = batch_size // step * step
    below = (size for size in range(start, 0, -step) if not mixes_views(size))
    above = (size for size in count(start + step, step) if not mixes_views(size))
    near = ", ".join(str(size) for size in (*islice(below, 1), next(above)))
    raise ValueError(
        f"--batch-size {batch_size} {reason}; the nearest that are accepted: {near}; "
        "or turn it off: --mixing.mixup 0 --mixing.cutmix 0"
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
