"""The processes of a run: who they are, and what they tell each other beside gradients."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel

from pretrain.buffers import kept_buffers
from pretrain.roll_call import RankLostError, RollCall
from pretrain.sharding import is_sharded

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class World:
    """All processes of a launch, as one of them sees it. accelerate finds them; messages travel over gloo.

    A process group of its own for messages spares the GPU a synchronisation each time the ranks agree on something.
    Use it in a `with`, which ends the process group.

    Args:
        precision: of the operations under `autocast`.
        deterministic: on a GPU only operations that give the same bits each time, as CPUs do.
        patience: seconds that a process waits for the others.

    Raises:
        RuntimeError: the launcher promised another number of processes than have met.
    """

    def __init__(self, precision: Precision, *, deterministic: bool = False, patience: float = 600.0) -> None:
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
            torch.use_deterministic_algorithms(True)
        self.precision: Precision = precision
        timeout = timedelta(seconds=patience)
        on_gpu = torch.cuda.is_available()
        # NCCL kills the process when its patience ends: later than the messages, whose error can say who is lost.
        others = timeout + timedelta(seconds=60) if on_gpu else timeout
        self.accelerator = Accelerator(
            mixed_precision="no",  # `autocast` is ours: accelerate refuses fp16 on a CPU
            cpu=not on_gpu,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=others)],
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
        self._roll_call: RollCall | None = None
        if self.size > 1:
            group = torch.distributed.new_group(backend="gloo", timeout=timeout)
            assert isinstance(group, ProcessGroup)
            self._messages = group
            self._roll_call = RollCall(self.rank, self.gather)

    def autocast(self) -> AbstractContextManager[Any]:
        """In here operations run in the world's precision where that is safe; weights stay as they are."""
        dtype = _DTYPES[self.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.precision != "fp32")

    def share_gradients(self, model: nn.Module) -> nn.Module:
        """The model, with gradients averaged over all processes where there are several; as it is where it is sharded,
        which does that already.

        Batch norms normalise by each process's own rows, and every step begins with rank 0's running statistics.

        Raises:
            ValueError: a sharded model with running statistics, which nobody would share.
        """
        if self.size == 1:
            return model
        if is_sharded(model):
            if buffers := list(kept_buffers(model)):
                raise ValueError(
                    f"--shard-parameters: the model's running statistics ({buffers[0]} and the like) would differ "
                    "between processes; leave it out, or take a model with layer norms alone"
                )
            return model
        return DistributedDataParallel(
            model,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )

    def at(self, step: int) -> None:
        """Note which step this process is at, for those that may wait for it."""
        if self._roll_call is not None:
            self._roll_call.step = step

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

    def follow_first(self, tensors: Iterable[Tensor]) -> None:
        """Give these tensors rank 0's values on every process, in place."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor.detach(), src=0)

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

    @contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """In here an error of talking to the others becomes one that says who of them is gone.

        Raises:
            RankLostError: instead of the RuntimeError of a collective operation, where somebody is.
        """
        try:
            yield
        except RuntimeError as error:
            is_ours = type(error) is not RuntimeError and not isinstance(error, torch.distributed.DistError)
            lost = None if self._roll_call is None or is_ours else self._roll_call.absent()
            if lost is None:
                raise
            raise RankLostError(
                f"{lost}: what the others do together cannot go on. The same command goes on from the newest "
                f"checkpoint, on any number of processes ({_reason(error)})"
            ) from error

    def __enter__(self) -> "World":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the process group; after a failure, which the others may not have met, without waiting for them."""
        if self._messages is not None and kind is None:
            self.barrier()  # or rank 0 would take the store of the roll call away while others still use it
            torch.distributed.destroy_process_group()
        if self._roll_call is not None:
            self._roll_call.close()


def _reason(error: RuntimeError) -> str:
    """What a collective operation says of its end, without where in its source it says so and its advice."""
    return re.sub(r"^\[\S*\] ", "", str(error).splitlines()[0]).partition(". ")[0]
