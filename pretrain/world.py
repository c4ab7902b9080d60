"""The processes of a run: who they are, and what they tell each other beside gradients."""

import os
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel

_TIMEOUT = timedelta(minutes=10)


class World:
    """All processes of a launch, as one of them sees it. accelerate finds them; messages travel over gloo.

    A process group of its own for messages spares the GPU a synchronisation each time the ranks agree on something.
    Use it in a `with`, which ends the process group.

    `deterministic`: on a GPU only operations that give the same bits each time, as CPUs do.

    Raises:
        RuntimeError: the launcher promised another number of processes than have met.
    """

    def __init__(self, precision: Literal["fp32", "bf16"], *, deterministic: bool = False) -> None:
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
            torch.use_deterministic_algorithms(True)
        self.accelerator = Accelerator(
            mixed_precision="no" if precision == "fp32" else precision,
            cpu=not torch.cuda.is_available(),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_TIMEOUT)],
        )
        self.rank: int = self.accelerator.process_index
        self.size: int = self.accelerator.num_processes
        self.device: torch.device = self.accelerator.device
        promised = int(os.environ.get("WORLD_SIZE", "1"))
        if self.size != promised:
            raise RuntimeError(
                f"WORLD_SIZE is {promised}, but accelerate sees {self.size} processes; "
                "launch with `accelerate launch --multi_gpu --num_processes N`, on a CPU with ACCELERATE_USE_CPU=true"
            )
        self._messages: ProcessGroup | None = None
        if self.size > 1:
            group = torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT)
            assert isinstance(group, ProcessGroup)
            self._messages = group

    def share_gradients(self, model: nn.Module) -> nn.Module:
        """The model, with gradients averaged over all processes where there are several."""
        if self.size == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process. Every process must ask, in the same step."""
        if self._messages is None:
            return flag
        votes = torch.tensor(int(flag))
        torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX, self._messages)
        return bool(votes)

    def mean(self, value: Tensor) -> float:
        """The mean of a scalar over all processes."""
        total = value.detach().double().cpu()
        if self._messages is not None:
            torch.distributed.all_reduce(total, group=self._messages)
        return total.item() / self.size

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes in one list, by rank, on every process."""
        if self._messages is None:
            return items
        lists: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(lists, items, self._messages)
        return [item for items in lists for item in items]

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self._messages is not None:
            torch.distributed.barrier(self._messages)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the process group; after a failure, which the others may not have met, without waiting for them."""
        if self._messages is not None and kind is None:
            torch.distributed.destroy_process_group()
