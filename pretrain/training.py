"""What a run trains and how, as the loop is told it, and what the loop tells of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from data_pipeline.stream import Batch, Stream
from launch.console import Console
from launch.run_folder import RunFolder
from launch.trackers import Tracker
from pretrain.anomaly_config import AnomalyConfig
from pretrain.averaging import Average
from pretrain.compiling import Compilation
from pretrain.meter import Work
from pretrain.saver import Keeping
from pretrain.selection import Selection
from pretrain.world import World


@dataclass(frozen=True)
class Objective:
    """What a step computes, as two closures.

    inputs: maps this process's rows of a batch to tensors (b, ...) on the device: pixels as the model sees them and
    whatever else the loss needs, mixed between rows where they are mixed. Without gradients, and of nothing but the
    batch: it runs ahead of the step before.

    loss: maps the model (which shares gradients between processes) and those tensors, or so many of their rows where a
    batch is accumulated, to the losses of the rows (b,), whose mean is minimised, and whatever else is to be logged.
    """

    inputs: Callable[[Batch], tuple[Tensor, ...]]
    loss: Callable[..., tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Pace:
    """What happens when: in steps, but for `accumulate`, pieces of each process's rows."""

    accumulate: int
    log_every: int
    checkpoint_steps: int
    evaluate_steps: int
    keeping: Keeping


@dataclass
class Training:
    """What a run trains, with what, from what, and where it writes."""

    world: World
    model: nn.Module
    optimizer: torch.optim.Optimizer
    stream: Stream
    run: RunFolder
    console: Console
    promise: Mapping[str, Any]
    """What bit-equality depends on beside data and options: versions, threads, world. Recorded in checkpoints."""
    average: Average | None = None
    """Of the weights: kept by `fit`, evaluated in their place, and saved beside them."""
    track: Callable[[int], Tracker] | None = None
    """Opens a tracker of a run that goes on after a step; on rank 0 alone."""
    tracker: Tracker | None = None
    """The one that is open: `fit` opens it, and closes it where it fails."""

    def stop_tracking(self) -> None:
        """Close the tracker, if one is open, which may take half a minute: to be called when all else is done."""
        if self.tracker is not None:
            self.tracker.close()
            self.tracker = None


class Start(NamedTuple):
    """The step that a run goes on after, and what its checkpoint holds beside the step and the stream."""

    step: int = 0
    state: Mapping[str, Any] = MappingProxyType({})


class Ending(NamedTuple):
    """How training ended, and after which step; whether batches were left because no evaluation got better."""

    status: Literal["done", "preempted"]
    step: int
    stopped_early: bool = False


@dataclass(frozen=True)
class Options:
    """How steps are computed, beside what they compute."""

    clip_norm: float | None = None
    anomalies: AnomalyConfig = field(default_factory=AnomalyConfig)
    work: Work | None = None
    compilation: Compilation | None = None
    selection: Selection | None = None
    """With one a checkpoint is saved before each evaluation, and `checkpoints/best` names the best."""
    shares: Mapping[str, Callable[[], float]] = field(default_factory=dict)
    """Parts of the time to tell apart, such as a teacher's: by its name in metrics.jsonl the seconds that each has
    taken so far. Asked for often; nobody may have to wait for the answer."""
