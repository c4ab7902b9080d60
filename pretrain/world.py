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

from launch.fsdp_request import asks_to_shard
from pretrain.buffers import kept_buffers
from pretrain.roll_call import Place, RankFailedError, RankLostError, RollCall, Sign
from pretrain.sharding import is_sharded

Precision = Literal["fp32", "bf16", "fp16"]
_GOES_ON = (
    "what the others do together cannot go on. The same command goes on from the newest checkpoint, on any number of "
    "processes"
)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def steps_between_questions(processes: int) -> int:
    """How many steps apart so many processes agree on whether to stop.

    gloo sends even one number round a ring, 2 (n - 1) messages one after another: at a thousand processes that takes
    longer than a step (docs/scaling.md). 64 and fewer agree after every step.
    """
    return max(1, processes // 64)


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
        self.is_asked_to_shard = asks_to_shard(os.environ)
        self.patience = patience
        self.place = Place()
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
            self._roll_call = RollCall(self.rank, self.place, self.gather)

    def autocast(self) -> AbstractContextManager[Any]:
        """In here operations run in the world's precision where that is safe; weights stay as they are."""
        dtype = _DTYPES[self.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.precision != "fp32")

    def share_gradients(self, model: nn.Module) -> nn.Module:
        """The model, with gradients averaged over all processes where there are several; as it is where it is sharded,
        which does that already.

        Batch norms normalise by each process's own rows, and every step begins with rank 0's running statistics.

        Raises:
            ValueError: a sharded model with running statistics, which nobody would share; or the launcher was told
                to shard, and this model is not.
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
        if self.is_asked_to_shard:
            raise ValueError(
                "accelerate launch was told to train by FSDP2, expected DDP, as this script knows nothing else; launch "
                "it with --config_file launch/configs/gpu-8.yaml, or without --use_fsdp"
            )
        return DistributedDataParallel(
            model,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )

    def at(self, step: int) -> None:
        """Note that this process begins a step, for those that may wait for it; see `Place` for what it does there."""
        self.place.step, self.place.stage = step, "step"

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

    @property
    def who(self) -> list[str]:
        """Every process by rank, host and pid, for messages; none where this is the only one."""
        return [] if self._roll_call is None else self._roll_call.who

    def signs(self) -> list[Sign]:
        """Every process's last sign of life, by rank; none where this is the only one, or rank 0 does not answer."""
        return [] if self._roll_call is None else self._roll_call.signs() or []

    def lost(self, reason: str) -> RankLostError | RankFailedError | None:
        """The error that says who of the others is gone or behind, and for that `reason`; None where nobody is.

        Takes seconds.
        """
        if self._roll_call is None:
            return None
        try:
            lost = self._roll_call.absent()
        except RankFailedError as error:
            return error
        return None if lost is None else RankLostError(f"{lost}: {_GOES_ON} ({reason})")

    @contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """In here an error of talking to the others becomes one that says who of them is gone; they hear of others.

        Raises:
            RankLostError, RankFailedError: instead of the RuntimeError of a collective operation.
        """
        try:
            yield
        except Exception as error:
            if self._roll_call is None or isinstance(error, RankLostError | RankFailedError):  # told within already
                raise
            if not _may_be_of_a_collective(error):
                self._roll_call.leave_word(str(error) or type(error).__name__)
                raise
            reason = str(error).partition("\n")[0]
            lost = self.lost(_without_source(reason))
            if lost is None and "gloo" in reason:
                lost = RankLostError(
                    f"the processes lost touch though all live: {_GOES_ON} ({_without_source(reason)})"
                )
            if lost is None:
                self._roll_call.leave_word(str(error))
                raise
            raise lost from error

    def __enter__(self) -> "World":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the process group; after a failure, which the others may not have met, without waiting for them."""
        if self._messages is not None and kind is None:
            self.barrier()  # or rank 0 would take the store of the roll call away while others still use it
            torch.distributed.destroy_process_group()
        if self._roll_call is not None:
            self._roll_call.close()


def _may_be_of_a_collective(error: Exception) -> bool:
    """torch raises no better than RuntimeError where a peer has gone, and where tensors do not fit."""
    return type(error) is RuntimeError or isinstance(error, torch.distributed.DistError)


def _without_source(reason: str) -> str:
    """What a collective operation says of its end, without where in its source it says so and its advice."""
    return re.sub(r"^\[\S*\] ", "", reason).partition(". ")[0]
