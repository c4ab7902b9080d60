"""One optimisation step: gradients of a batch, measured, applied where they are finite. Nothing waits for a GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from pretrain.buffers import BufferMemory
from pretrain.loss_scale import LossScale
from pretrain.optimizer import gradient_norms
from pretrain.world import World

Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Outcome:
    """What a step computed, on the device: not looked at before somebody has to.

    logged: averages over this process's rows, "loss" among them. losses: of each of its rows. norms: of each
    parameter's gradient, in the order of `Stepper.names`. norm: of all gradients; where it is not finite, on any
    process, the step was skipped on all. scale: what the losses were multiplied by, None for fp32 and bf16.
    """

    logged: dict[str, Tensor]
    losses: Float[Tensor, " b"]
    norms: Float[Tensor, " parameters"]
    norm: Float[Tensor, ""]
    scale: Tensor | None


class Stepper:
    """Steps of one model.

    Args:
        world: gives processes and precision.
        model: what `World.share_gradients` gave.
        optimizer: a fused one skips steps without anybody waiting for the device; for others the norm is looked at.
        loss: see `Objective`.
        accumulate: pieces that this process's rows are run in, one after another.
        clip_norm: gradients longer than this are scaled down to it; None never clips.
        scale: of the losses, for fp16.
    """

    def __init__(
        self,
        world: World,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        *,
        accumulate: int,
        clip_norm: float | None,
        scale: LossScale | None,
    ) -> None:
        self._world = world
        self._model = model
        self._optimizer = optimizer
        self._loss = loss
        self._accumulate = accumulate
        self._clip_norm = clip_norm
        self._scale = scale
        groups = optimizer.param_groups
        self._buffers = BufferMemory(model)
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self.names: list[str] = [name for group in groups for name in group["param_names"]]

    def step(self, inputs: tuple[Tensor, ...]) -> Outcome:
        """Run this process's rows forward and backward, and let the optimizer act on the batch of all processes.

        A step that is skipped leaves buffers, too, as they were.

        Raises:
            ValueError: more pieces than rows.
        """
        self._buffers.remember()
        logged, losses = self._backward(inputs)
        norms = gradient_norms(self._parameters)
        scale = None if self._scale is None else self._scale.value.clone()
        if scale is not None:
            norms = norms / scale
        norm = torch.linalg.vector_norm(norms)
        self._apply(norm)
        self._optimizer.zero_grad(set_to_none=True)
        return Outcome(logged, losses, norms, norm, scale)

    def _backward(self, inputs: tuple[Tensor, ...]) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of the mean loss; what is logged, averaged over the pieces; the rows' losses."""
        rows, pieces = len(inputs[0]), self._accumulate
        if pieces > rows:
            raise ValueError(
                f"--accumulate {pieces} is more than the {rows} images of each process; give at most {rows}"
            )
        bounds = [rows * piece // pieces for piece in range(pieces + 1)]
        sums: dict[str, Tensor] = {}
        losses = []
        for first, last in pairwise(bounds):
            share = (last - first) / rows
            with _shared(self._model, last == rows):
                with self._world.autocast():
                    own, extras = self._loss(self._model, *(values[first:last] for values in inputs))
                loss = own.float().mean()
                weighted = loss * share
                (weighted if self._scale is None else weighted * self._scale.value).backward()
            losses.append(own.detach())
            for name, value in {"loss": loss, **extras}.items():
                sums[name] = sums.get(name, 0) + value.detach() * share
        return sums, torch.cat(losses)

    def _apply(self, norm: Tensor) -> None:
        """The optimizer's step, unless a gradient is not finite; gradients are unscaled and clipped on the way."""
        optimizer: Any = self._optimizer
        divisor = None if self._scale is None else self._scale.value
        if self._clip_norm is not None:
            shrink = (norm + 1e-6).div(self._clip_norm).clamp(min=1.0)
            divisor = shrink if divisor is None else divisor * shrink
        is_bad = norm.isfinite().logical_not()
        self._buffers.restore(where=is_bad)
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            # How torch's own GradScaler tells fused optimizers what to divide by, and whether to act at all.
            optimizer.grad_scale, optimizer.found_inf = divisor, is_bad.float()
            optimizer.step()
            optimizer.grad_scale = optimizer.found_inf = None
        elif not is_bad:
            if divisor is not None:
                for parameter in self._parameters:
                    if parameter.grad is not None:
                        parameter.grad.div_(divisor)
            optimizer.step()
        if self._scale is not None:
            self._scale.update(is_bad)


@contextmanager
def _shared(model: nn.Module, is_last: bool) -> Iterator[None]:
    """Gradients travel between processes with the last piece of a batch only."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_last)
        yield
    elif isinstance(model, DistributedDataParallel) and not is_last:
        with model.no_sync():
            yield
    else:
        yield
