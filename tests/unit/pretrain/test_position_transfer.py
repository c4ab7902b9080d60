"""Which grid positions of others have, and what becomes of them in another."""

import pytest
import torch
from torch import Tensor

from pretrain.encoder import sincos_positions
from pretrain.position_transfer import transfer_positions
from pretrain.positions import interpolate_positions


def learned(count: int, width: int = 8) -> Tensor:
    return torch.randn(1, 1 + count, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("grid", [(4, 4), (2, 8), (8, 2), (1, 5), (3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_sine_cosine_table_tells_its_grid(grid: tuple[int, int], dtype: torch.dtype):
    table = sincos_positions(grid, 16)[None].to(dtype).float()
    # Neither what is stated nor a square is believed against it.
    found = transfer_positions(table, (6, 4), "facebook", (4, 4))
    assert (found.grid, found.is_sincos) == (grid, True)
    assert torch.equal(found.positions, interpolate_positions(table, grid, (6, 4), "facebook"))
    assert torch.equal(transfer_positions(table, grid, "timm", None).positions, table)


@pytest.mark.parametrize(
    ("count", "stated", "grid"),
    [
        (16, (2, 8), (2, 8)),
        (16, (3, 8), (4, 4)),  # what is stated does not fit
        (16, None, (4, 4)),
        (6, None, (2, 3)),  # no square: the model's own
        (6, (3, 2), (3, 2)),
    ],
)
def test_learned_positions_are_on_the_grid_stated_or_a_square_or_the_models(
    count: int, stated: tuple[int, int] | None, grid: tuple[int, int]
):
    positions = learned(count)
    found = transfer_positions(positions, (2, 3), "timm", stated)
    assert (found.grid, found.is_sincos) == (grid, False)
    assert torch.equal(found.positions, interpolate_positions(positions, grid, (2, 3), "timm"))


def test_a_width_that_no_table_has_is_learned():
    assert not transfer_positions(learned(4, width=6), (2, 2), "timm", None).is_sincos


@pytest.mark.parametrize("count", [15, 17, 0])
def test_a_number_of_positions_that_no_grid_has_is_refused(count: int):
    with pytest.raises(
        ValueError, match=rf"^has {count + 1} positions, expected .* such as 7 for 2 x 3; without one for"
    ):
        transfer_positions(learned(count), (2, 3), "timm", None)


def test_positions_that_do_not_tell_patches_apart_are_refused():
    with pytest.raises(ValueError, match=r"^is the same for all patches, .* Transformers 5 leaves positions zero"):
        transfer_positions(torch.zeros(1, 17, 8), (4, 4), "facebook", None)
    assert transfer_positions(torch.zeros(1, 2, 8), (1, 1), "facebook", None).grid == (1, 1)
