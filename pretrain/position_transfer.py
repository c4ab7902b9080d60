"""Positions of weights that others have made, for the grid of patches of a model of ours.

Where the grids differ those of the encoder and those of the decoder are interpolated alike, also where they are a
sine-cosine table. A model trained from scratch at the new size would have the table of the new grid; but the weights
have learned to read the coordinates of the old one, and in a larger grid would meet some that they never saw.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pretrain.encoder import Size, sincos_positions
from pretrain.positions import Interpolation, interpolate_positions

METHODS = {
    "facebook": "bicubic without antialiasing, as MAE's released code does it",
    "timm": "bicubic with antialiasing, as timm does it",
}
# bf16 rounds numbers below 1 by up to .002, and learned positions lie nowhere near the table.
_ROUNDING = 4e-3


@dataclass(frozen=True)
class Transferred:
    """Positions for the new grid, the grid they had, and whether they were that grid's sine-cosine table."""

    positions: Float[Tensor, "1 tokens d"]
    grid: Size
    is_sincos: bool


def transfer_positions(
    positions: Float[Tensor, "1 tokens d"], new_grid: Size, mode: Interpolation, stated_grid: Size | None
) -> Transferred:
    """Find the (rows, columns) grid of the positions, the class token's before them, and interpolate to `new_grid`.

    The grid is the one whose sine-cosine table they are; else the one stated, if it fits; else a square; else the new
    one. ValueError where none fits, or all patches have the same position; the message is to follow the tensor's name.
    """
    count = positions.shape[1] - 1
    sincos = _sincos_grid(positions)
    root = math.isqrt(max(count, 0))
    grids = [sincos, stated_grid, (root, root), new_grid]
    grid = next((grid for grid in grids if grid is not None and math.prod(grid) == count > 0), None)
    if grid is None:
        raise ValueError(
            f"has {count + 1} positions, expected one for the class token and those of a grid of patches, such as "
            f"{1 + math.prod(new_grid)} for {new_grid[0]} x {new_grid[1]}; without one for the class token (as in DeiT "
            "III), or with several, weights of another kind are needed"
        )
    if count > 1 and torch.equal(positions[:, 1:-1], positions[:, 2:]):
        raise ValueError(
            "is the same for all patches, which then cannot be told apart: Transformers 5 leaves positions zero in a "
            "model that it makes anew, and they are frozen"
        )
    return Transferred(interpolate_positions(positions, grid, new_grid, mode), grid, grid == sincos)


def _sincos_grid(positions: Float[Tensor, "1 tokens d"]) -> Size | None:
    """The grid whose sine-cosine table the positions are, or None."""
    count, width = positions.shape[1] - 1, positions.shape[2]
    if width % 4:
        return None
    for rows in range(1, count + 1):
        if count % rows == 0:
            grid = rows, count // rows
            if torch.allclose(positions[0], sincos_positions(grid, width), rtol=0, atol=_ROUNDING):
                return grid
    return None
