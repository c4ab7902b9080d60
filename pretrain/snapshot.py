"""A copy of what a checkpoint holds, so that it can be written while training goes on."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pretrain.sharding import whole


class Snapshot:
    """Weights and optimizer state in this process's memory, whole also where they are sharded.

    The same memory is used each time, page-locked beside a GPU. Only a keeper keeps a copy; the others help to gather.
    """

    def __init__(self, *, keeps: bool) -> None:
        self.weights: dict[str, Tensor] = {}
        self.moments: dict[str, Tensor] = {}
        self._keeps = keeps

    @torch.no_grad()
    def take(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Copy both as they are now. Every process must call it where the model is sharded."""
        self._copy(self.weights, model.state_dict())
        self._copy(self.moments, optimizer_tensors(optimizer))
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()

    def _copy(self, mine: dict[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
        for name, tensor in theirs.items():
            value = whole(tensor)
            if not self._keeps:
                continue
            if name not in mine:
                mine[name] = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            mine[name].copy_(value, non_blocking=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `parameter name.kind` -> tensor."""
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        f"{name}.{kind}": tensor
        for name, parameter in zip(names, parameters, strict=True)
        for kind, tensor in optimizer.state[parameter].items()
    }
