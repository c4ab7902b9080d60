"""A step that does not fit: what the message names has been tried."""

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pretrain import out_of_memory as module
from pretrain.config import OptimizerConfig
from pretrain.optimizer import create_optimizer
from pretrain.out_of_memory import OutOfMemoryError, explain_out_of_memory, is_out_of_memory
from pretrain.world import World


class Limited:
    """A loss that does not fit with more rows than so many; it keeps how many it was given."""

    def __init__(self, most: int, error: type[RuntimeError] = torch.OutOfMemoryError) -> None:
        self.most = most
        self.error = error
        self.tried: list[int] = []

    def __call__(self, model: nn.Module, values: Tensor, _: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.tried.append(len(values))
        if len(values) > self.most:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        losses = model(values).square().mean(dim=1)
        return losses, {}


def explain(loss: Any, rows: int, accumulate: int = 1, *, steps: int = 0) -> OutOfMemoryError:
    """Of a model that has been trained for so many steps, and a batch of so many rows, of which some fit."""
    model = nn.Linear(3, 2)
    optimizer = create_optimizer(model, OptimizerConfig())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(steps):
        optimizer.step()
    inputs = torch.ones(rows, 3), torch.ones(rows)
    result = explain_out_of_memory(World("fp32"), model, optimizer, loss, inputs=inputs, accumulate=accumulate)
    # A gradient that came by backward() would have been shared with processes that do something else.
    assert all(parameter.grad is None for parameter in model.parameters())
    return result


@pytest.mark.parametrize(
    ("rows", "accumulate", "most", "tried", "fitting"),
    [
        (64, 1, 32, [32], 2),
        (64, 1, 7, [32, 16, 8, 4], 16),
        (64, 4, 15, [8], 8),
        (7, 1, 3, [4, 2], 4),  # the largest of four pieces of seven has two
        (7, 1, 1, [4, 2, 1], 7),
        (6, 4, 1, [1], 6),
    ],
)
def test_the_least_that_fits_is_named(rows: int, accumulate: int, most: int, tried: list[int], fitting: int):
    loss = Limited(most)
    message = str(explain(loss, rows, accumulate))
    assert loss.tried == tried
    assert message == (
        f"out of memory with {-(-rows // accumulate)} images at once in each process (fp32); tried: with --accumulate "
        f"{fitting} ({tried[-1]} at once) a step fits, and the result is the same up to the order of float sums. Give "
        "the same command with it: the run goes on from its newest checkpoint"
    )


@pytest.mark.parametrize(
    ("rows", "accumulate", "said"),
    [
        (5, 1, "out of memory with 5 images at once in each process (fp32), and with a single one; "),
        (5, 5, "out of memory with a single image at once in each process (fp32); "),
    ],
)
def test_nothing_fits(rows: int, accumulate: int, said: str):
    message = str(explain(Limited(0), rows, accumulate))
    assert message.startswith(said)
    assert message.endswith(
        "--gradient-checkpointing needs less, --shard-parameters on several GPUs, or a model with fewer or narrower "
        "blocks"
    )


def test_of_a_sharded_model_nothing_is_tried(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "is_sharded", lambda model: True)
    loss = Limited(64)
    assert "with 16 images at once in each process (fp32); give --accumulate 8, or more: " in str(explain(loss, 64, 4))
    assert "; give --accumulate 6, or more: " in str(explain(loss, 6, 4))
    assert "with a single image at once in each process (fp32); --grad" in str(explain(loss, 6, 6))
    assert loss.tried == []


@pytest.mark.parametrize(("steps", "copies"), [(0, 3), (1, 1)])
def test_room_is_left_for_what_a_step_needs_beside(steps: int, copies: int):
    """The gradient of the pieces before, and AdamW's averages where they are not there yet: of 8 floats each."""
    rooms: list[int] = []

    def loss(model: nn.Module, values: Tensor, _: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        tensors = [one for one in gc.get_objects() if type(one) is Tensor and one.dtype == torch.uint8]
        rooms.extend(len(one) for one in tensors if one.dim() == 1)
        return model(values).square().mean(dim=1), {}

    assert "with --accumulate 2 (4 at once) a step fits" in str(explain(loss, 8, steps=steps))
    assert copies * 8 * 4 in rooms


def test_other_errors_of_a_trial_are_not_hidden():
    with pytest.raises(ValueError, match="not of memory"):
        explain(Limited(0, error=_OtherError), 8)


def test_what_cannot_be_found_out_is_not_said():
    """In a thread where oneDNN once lacked memory it fails with however few images."""
    said = str(explain(Limited(0, error=_OneDnnError), 8))
    assert said.endswith("; give --accumulate 2, or more: the result is the same up to the order of float sums")


class _OneDnnError(RuntimeError):
    def __init__(self, _: str) -> None:
        super().__init__("could not create a primitive")


class _OtherError(RuntimeError, ValueError):
    def __init__(self, _: str) -> None:
        super().__init__("not of memory")


def test_what_torch_says_where_it_cannot_allocate():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))  # oneDNN's, seen with 100 MB of addresses
    with pytest.raises(RuntimeError) as caught:
        torch.mm(torch.ones(2, 3), torch.ones(2, 3))
    assert not is_out_of_memory(caught.value)
