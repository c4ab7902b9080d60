"""What to do about a step that does not fit the memory: tried, not guessed."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pretrain.meter import peak_memory
from pretrain.sharding import is_sharded
from pretrain.world import World


class OutOfMemoryError(RuntimeError):
    """A step does not fit the memory; the message says what does."""


# All that oneDNN says where it cannot allocate; in a thread that has met this it goes on saying so.
_ONE_DNN = "could not create a primitive"


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate, on a GPU or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        said in str(error) for said in ("DefaultCPUAllocator", _ONE_DNN)
    )


Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]


def explain_out_of_memory(
    world: World,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    *,
    inputs: tuple[Tensor, ...],
    accumulate: int,
) -> OutOfMemoryError:
    """Try more and smaller pieces of the batch, on this process alone, until one fits.

    model: not the one that shares gradients: nothing here waits for the others, which wait for this process. Of a
    sharded model, whose forward needs them, nothing is tried.
    """
    for parameter in model.parameters():
        parameter.grad = None
    rows = len(inputs[0])
    at_once = -(-rows // accumulate)
    images = "a single image" if at_once == 1 else f"{at_once:,} images"
    said = f"out of memory with {images} at once in each process ({world.precision})"
    same = "the result is the same up to the order of float sums"
    # The gradient of the pieces before and, where the first step has not made them yet, the two averages of AdamW.
    copies = 1 if optimizer.state else 3
    reserve = copies * sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    while accumulate < rows:
        accumulate = min(2 * accumulate, rows)
        piece = tuple(values[: -(-rows // accumulate)] for values in inputs)
        fits = None if is_sharded(model) else _fits(world, model, loss, piece, reserve)
        if fits is None:
            return OutOfMemoryError(f"{said}; give --accumulate {accumulate}, or more: {same}")
        if fits:
            used = f", {peak_memory(world.device) / 1e9:.1f} GB at most" if world.device.type == "cuda" else ""
            return OutOfMemoryError(
                f"{said}; tried: with --accumulate {accumulate} ({len(piece[0]):,} at once{used}) a step fits, and "
                f"{same}. Give the same command with it: the run goes on from its newest checkpoint"
            )
    return OutOfMemoryError(
        f"{said}{', and with a single one' if at_once > 1 else ''}; --gradient-checkpointing needs less, "
        "--shard-parameters on several GPUs, or a model with fewer or narrower blocks"
    )


def _fits(world: World, model: nn.Module, loss: Loss, piece: tuple[Tensor, ...], reserve: int) -> bool | None:
    """None where that cannot be found out."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if world.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(world.device)
    try:
        room = torch.empty(reserve, dtype=torch.uint8, device=world.device)
        with world.autocast():
            losses, _ = loss(model, *piece)
        # Not backward(): that would start to share gradients with processes that do not take part.
        torch.autograd.grad(losses.float().mean(), parameters, allow_unused=True)
        del room
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None if _ONE_DNN in str(error) else False
    return True
