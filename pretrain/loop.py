"""`fit`: from a stream of batches and a closure that gives the loss to trained weights, through any interruption."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data_pipeline.stages import who_decoded
from data_pipeline.stream import Batch, Stream
from launch.console import Console
from launch.run_folder import RunFolder
from pretrain.checkpoint import move_latest, save_checkpoint
from pretrain.optimizer import clip_gradients
from pretrain.world import World


@dataclass(frozen=True)
class Objective:
    """What a step computes, as two closures.

    inputs: maps this process's rows of a batch to tensors (b, ...) on the device: pixels as the model sees them and
    whatever else the loss needs, mixed between rows where they are mixed. Without gradients.

    loss: maps the model (which shares gradients between processes) and those tensors, or so many of their rows where a
    batch is accumulated, to the mean loss over the rows and whatever else is to be logged.
    """

    inputs: Callable[[Batch], tuple[Tensor, ...]]
    loss: Callable[..., tuple[Tensor, dict[str, Tensor]]]


_EVALUATED = "evaluation_seconds"
_DIVERGED = "the checkpoints before it are whole. Lower --optimizer.base-lr or set --optimizer.clip-norm in a new run"


@dataclass(frozen=True)
class Pace:
    """How long a run is, and what happens when: all in steps, except `keep`, the number of checkpoints that stay."""

    steps: int
    accumulate: int
    log_every: int
    checkpoint_steps: int
    evaluate_steps: int
    keep: int


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


def fit(
    training: Training,
    objective: Objective,
    pace: Pace,
    *,
    learning_rate: Callable[[float], float],
    clip_norm: float | None,
    evaluate: Callable[[int], dict[str, float]],
    start: int = 0,
) -> Literal["done", "preempted"]:
    """Train from step `start` to the end, or until asked to stop by TERM, Ctrl-C or a file `stop` in the run folder.

    Args:
        learning_rate: of the epoch, a fraction counted in positions of the stream; multiplied by a parameter group's
            `lr_scale` where it has one.
        evaluate: called after a step on every process; what it returns is logged.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    world, stream, run = training.world, training.stream, training.run
    model = world.share_gradients(training.model)
    parameters = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
    model.train()
    if _owes_evaluation(training, start, pace):
        _evaluate(training, start, evaluate)
    meter = _Meter(training)
    batches = iter(stream)
    with (
        _terminations() as terminated,
        training.console.progress(pace.steps, start=start, every_seconds=10) as progress,
    ):
        for step in range(start + 1, pace.steps + 1):
            is_logged = step % pace.log_every == 0 or step == pace.steps
            rate = learning_rate(stream.position / stream.epoch_positions)
            for group in training.optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)
            with meter.waiting():
                batch = next(batches)
            sums = _backward(model, objective, batch, world, pace.accumulate)
            norm = clip_gradients(parameters, clip_norm) if is_logged or clip_norm is not None else None
            training.optimizer.step()
            training.optimizer.zero_grad(set_to_none=True)
            meter.count(len(batch.images) * world.size)
            if is_logged and norm is not None:
                line = meter.line(step, sums, {"lr": rate, "grad_norm": norm.item()})
                if world.rank == 0:
                    run.append_metrics(line)
            progress.advance(1, items=len(batch.images) * world.size, **meter.shown)
            is_asked = world.any(terminated() or (world.rank == 0 and run.stop_requested()))
            if step % pace.checkpoint_steps == 0 or step == pace.steps or is_asked:
                _save(training, step, pace.keep)
            if is_asked or step == pace.steps:
                _say_what_bound(training)
            if is_asked and step < pace.steps:
                training.console.say(f"asked to stop: saved step {step}; the same command goes on from there")
                if world.rank == 0:
                    run.clear_stop()
                return "preempted"
            if _is_evaluated(step, pace):
                _evaluate(training, step, evaluate)
                meter.restart()
    return "done"


def _say_what_bound(training: Training) -> None:
    """Rank 0 says of its own loader whether it kept up, and what to change."""
    stream = training.stream
    for sentence in (stream.what_binds(), who_decoded(stream.report)):
        if sentence is not None:
            training.console.say(sentence)


def _is_evaluated(step: int, pace: Pace) -> bool:
    return step == pace.steps or (pace.evaluate_steps > 0 and step % pace.evaluate_steps == 0)


def _owes_evaluation(training: Training, start: int, pace: Pace) -> bool:
    """Whether the run was interrupted between a checkpoint and the evaluation of that step."""
    if start == 0 or not _is_evaluated(start, pace):
        return False
    is_missing = training.world.rank == 0 and not any(
        _EVALUATED in line for line in training.run.read_metrics() if line["step"] == start
    )
    return training.world.any(is_missing)


def _evaluate(training: Training, step: int, evaluate: Callable[[int], dict[str, float]]) -> None:
    begin = time.perf_counter()
    training.model.eval()
    results = evaluate(step)
    training.model.train()
    training.stream.leave_out(time.perf_counter() - begin)
    if training.world.rank == 0:
        epoch = training.stream.position / training.stream.epoch_positions
        training.run.append_metrics({"step": step, "epoch": epoch, **results, _EVALUATED: time.perf_counter() - begin})


def _backward(model: nn.Module, objective: Objective, batch: Batch, world: World, accumulate: int) -> dict[str, Tensor]:
    """Gradients of the mean loss over the batch; what was logged, averaged over its parts."""
    rows = len(batch.images)
    if accumulate > rows:
        raise ValueError(
            f"--accumulate {accumulate} is more than the {rows} images of each process; give at most {rows}"
        )
    with torch.no_grad():
        inputs = objective.inputs(batch)
    bounds = [rows * piece // accumulate for piece in range(accumulate + 1)]
    sums: dict[str, Tensor] = {}
    for first, last in pairwise(bounds):
        is_last = last == rows
        silent = isinstance(model, DistributedDataParallel) and not is_last
        with model.no_sync() if silent else nullcontext():  # type: ignore[operator]
            with world.accelerator.autocast():
                loss, extras = objective.loss(model, *(values[first:last] for values in inputs))
            share = (last - first) / rows
            (loss * share).backward()
        for name, value in {"loss": loss, **extras}.items():
            sums[name] = sums.get(name, 0) + value.detach() * share
    return sums


def _save(training: Training, step: int, keep: int) -> None:
    """Rank 0 writes; the substitutions that each rank met are put together first."""
    world, run = training.world, training.run
    _check_finite(training, step)
    state = training.stream.state()
    met = {tuple(row[:2]): row for row in world.gather(state["substitutions"])}
    state["substitutions"] = [met[which] for which in sorted(met)]
    if world.rank == 0:
        content = {"step": step, "stream": state, "promise": dict(training.promise)}
        path = save_checkpoint(run.checkpoints, training.model, training.optimizer, content, run.guard)
    world.barrier()
    if world.rank == 0:
        move_latest(run.checkpoints, path, keep, run.guard)


def _check_finite(training: Training, step: int) -> None:
    """Losses are looked at only when they are logged: no checkpoint may replace a good one by what no run survives."""
    bad = [name for name, weights in training.model.named_parameters() if not torch.isfinite(weights).all()]
    if training.world.any(bool(bad)):
        raise FloatingPointError(f"step {step}: weights are not finite ({', '.join(bad[:3])}); {_DIVERGED}")


class _Meter:
    """Rates since the last logged line."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self.shown: dict[str, str | float] = {}
        self.restart()

    def restart(self) -> None:
        """Forget what was measured: the time since has gone into something else than training."""
        self._began, self._waited, self._images = time.perf_counter(), 0.0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in here is time in which training waits for data."""
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin

    def count(self, images: int) -> None:
        """So many images went through a step, over all processes."""
        self._images += images

    def line(self, step: int, extras: Mapping[str, Tensor], more: Mapping[str, float]) -> dict[str, Any]:
        """What is logged at a step; asks all processes. Raises FloatingPointError where the loss is not finite."""
        world, stream = self._training.world, self._training.stream
        values = {name: world.mean(value) for name, value in extras.items()}
        seconds = time.perf_counter() - self._began
        result = {
            "step": step,
            "epoch": stream.position / stream.epoch_positions,
            **values,
            **more,
            "images_per_second": self._images / seconds,
            "data_wait": self._waited / seconds,
            "memory": _peak_memory(world.device),
        }
        self.shown = {"loss": values["loss"], "data_wait": f"{result['data_wait']:.1%}"}
        self.restart()
        if not torch.isfinite(torch.tensor(values["loss"])):
            raise FloatingPointError(f"step {step}: the loss is {values['loss']}; {_DIVERGED}")
        return result


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _terminations() -> Iterator[Callable[[], bool]]:
    """Whether TERM or Ctrl-C has come since; a second Ctrl-C interrupts at once. Earlier handlers are put back."""
    came = False

    def note(number: int, _: object) -> None:
        nonlocal came
        came = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
