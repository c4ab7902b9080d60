"""Position embeddings for another grid of patches than they were trained on."""

from typing import Literal

import torch
from jaxtyping import Float
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

Interpolation = Literal["facebook", "timm"]


def interpolate_positions(
    positions: Float[Tensor, "1 old_tokens d"],
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    mode: Interpolation,
) -> Float[Tensor, "1 new_tokens d"]:
    """Positions of the class token and of an (rows, columns) grid, for another grid; the class token's stay.

    `facebook` is bicubic as the released fine-tuning code of MAE and DeiT does it; `timm` filters too where the grid
    becomes smaller (antialias). Where the grid stays the same so do the positions.
    """
    assert positions.shape[1] == 1 + old_grid[0] * old_grid[1], (positions.shape, old_grid)
    if old_grid == new_grid:
        return positions
    if mode == "timm":
        return resample_abs_pos_embed(positions, list(new_grid), list(old_grid))
    patches = positions[:, 1:].unflatten(1, old_grid).permute(0, 3, 1, 2)  # (1, n, d) -> (1, d, rows, columns)
    resized = nn.functional.interpolate(patches.float(), new_grid, mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)
