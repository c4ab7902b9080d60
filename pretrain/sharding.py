"""Parameters and optimizer state shared out over all processes: FSDP2 (Zhao et al. 2023, arXiv:2304.11277).

A checkpoint holds whole tensors whatever the sharding, so that a run may go on with it or without.
"""

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard_parameters(model: nn.Module, device: torch.device, processes: int) -> None:
    """Give each process its share of every parameter, in place: of each transformer block together, and of the rest.

    Parameters stay in fp32, also while they are gathered. Only the model's own forward gathers them: other methods
    need a `whole_copy`. Every process must call this, with the same weights.
    """
    mesh = init_device_mesh(device.type, (processes,))
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    whole_ones = [name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)]
    assert not whole_ones, f"not sharded: {whole_ones}"  # accelerate's own way leaves them so on CPUs, and says nothing


def is_sharded(model: nn.Module) -> bool:
    """Whether its parameters are shared out."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or put together of all processes' shares; every process must call it then."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(whole_one: Tensor, model: Tensor) -> Tensor:
    """A whole tensor on the device of `model` and shared out as that is; every process has the same whole one."""
    placed = whole_one.to(model.device)
    if not isinstance(model, DTensor):
        return placed
    return distribute_tensor(placed, model.device_mesh, model.placements, src_data_rank=None)


@torch.no_grad()
def whole_copy(model: nn.Module, twin: nn.Module) -> nn.Module:
    """The twin, an unsharded module of the same build, with the model's weights. Every process must call it."""
    twin.load_state_dict({name: whole(tensor) for name, tensor in model.state_dict().items()})
    return twin
