"""A copy of what a checkpoint holds, so that it can be written while training goes on."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pretrain.averaging import Average
from pretrain.sharding import whole


class Snapshot:
    """Weights, optimizer state and averaged weights in this process's memory, whole also where they are sharded.

    The same memory is used each time, page-locked beside a GPU. Only a keeper keeps a copy; the others help to gather.
    """

    def __init__(self, *, keeps: bool) -> None:
        self.weights: dict[str, Tensor] = {}
        self.moments: dict[str, Tensor] = {}
        self.average: dict[str, Tensor] = {}
        self._keeps = keeps

    @torch.no_grad()
    def take(self, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None = None) -> None:
        """Copy all as they are now. Every process must call it where the model is sharded."""
        self._copy(self.weights, model.state_dict())
        self._copy(self.moments, optimizer_tensors(optimizer))
        if average is not None:
            self._copy(self.average, average.tensors)
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()

    def _copy(self, mine: dict[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
        for name in mine.keys() - theirs.keys():  # of a parameter that was stepped, before the run went back
            del mine[name]
        for name, tensor in theirs.items():
            value = whole(tensor)
            if not self._keeps:
                continue
            if name not in mine:
                mine[name] = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            mine[name].copy_(value, non_blocking=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `parameter name.kind` -> tensor."""
    return {
        f"{name}.{kind}": tensor
        for name, parameter in _named(optimizer)
        for kind, tensor in optimizer.state.get(parameter, {}).items()
        if tensor is not None  # torch's SGD may say so before the first step
    }


def without_moments(optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the parameters that the optimizer has no state of: those that it never moved, or moves without."""
    has_any = {full.rpartition(".")[0] for full in optimizer_tensors(optimizer)}
    return [name for name, _ in _named(optimizer) if name not in has_any]


def _named(optimizer: torch.optim.Optimizer) -> list[tuple[str, Tensor]]:
    groups = optimizer.param_groups
    names = [name for group in groups for name in group["param_names"]]
    return list(zip(names, (parameter for group in groups for parameter in group["params"]), strict=True))
