"""What every training script does around its training: meet, open the run folder, find the start, tell the end."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from data_pipeline.manifest import DatasetError
from data_pipeline.task_pool import WorkerDiedError
from launch.console import Console
from launch.environment import environment
from launch.lock import LONG_ENOUGH, FolderInUseError, LockLostError
from launch.redaction import redact
from launch.run_folder import RunFolder, open_run
from launch.strict_json import fields_at_default, to_json
from launch.trackers import Tracker, TrackerKind, open_tracker
from pretrain.checkpoint import (
    Checkpoint,
    find_checkpoint,
    has_checkpoints,
    load_average,
    load_optimizer,
    load_weights,
    newest_checkpoint,
    newest_step,
)
from pretrain.out_of_memory import OutOfMemoryError
from pretrain.roll_call import RankFailedError, RankLostError
from pretrain.stop_signals import Terminated, ending_on_term
from pretrain.training import Start, Training
from pretrain.world import World

_IMAGES = ("pillow", "simplejpeg", "nvidia-nvimgcodec-cu13")
LIBRARIES = ("sherd", "torch", "torchvision", "timm", "accelerate", "numpy", "scikit-learn", "safetensors", *_IMAGES)
"""Whose versions environment.json records."""
# What a user can mend, by the message alone; anything else is a fault of ours and keeps its traceback.
MENDED_BY_USERS = (
    ValueError,
    OSError,
    DatasetError,
    WorkerDiedError,
    FolderInUseError,
    LockLostError,
    FloatingPointError,
    OutOfMemoryError,
    RankLostError,
    RankFailedError,
)
"""Errors whose message tells a user what to do."""


@dataclass(frozen=True)
class Session:
    """One process of a run: its world, what it prints, and the run folder, which rank 0 has locked.

    `settings` are what config.json holds.
    """

    world: World
    console: Console
    run: RunFolder
    settings: dict[str, Any]

    def tracking(self, kind: TrackerKind) -> Callable[[int], Tracker] | None:
        """Opens a tracker of this run, which goes on after a given step; None but on rank 0."""
        if self.world.rank > 0:
            return None
        return lambda start: open_tracker(kind, self.run.path, config=self.settings, start=start, say=self.console.say)

    def close(self, status: Literal["done", "preempted"], step: int, *, stopped_early: bool = False) -> None:
        """Leave word in exit.json of how the run ended."""
        if self.world.rank == 0:
            self.run.write_exit(status, step=step, **({"stopped_early": True} if stopped_early else {}))


@contextmanager
def explained() -> Iterator[None]:
    """Errors that a user can mend are one line, of the rank that met them, and exit code 1; others pass.

    Raises:
        SystemExit: after such a line.
    """
    try:
        yield
    except MENDED_BY_USERS as error:
        complain(told(error))
        raise SystemExit(1) from error


def complain(message: str) -> None:
    """One line on stderr: the program's name, where there are several processes the rank, and the message."""
    who = f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    print(f"{Path(sys.argv[0]).name}: {who}{message}", file=sys.stderr, flush=True)


@contextmanager
def session(
    recipe: str,
    config: Any,
    out: str,
    may_change: frozenset[str],
    *,
    world: World,
    console: Console | None = None,
) -> Iterator[Session]:
    """Open a run; where it fails leave exit.json = failed. What it says goes to `console`, by default to stdout."""
    settings = _without_credentials({"recipe": recipe, **to_json(config)})
    console = console or Console(world.rank)
    opened = partial(open_run, Path(out), settings, may_change, at_default=fields_at_default(config), say=console.say)
    with _open(world, Path(out), opened) as run:
        own = Session(world, console, run, settings)
        recorded = _endings_recorded(run, own.console) if world.rank == 0 else nullcontext()
        with recorded, ending_on_term(), world.naming_the_lost():
            if world.rank == 0:
                _prepare(run, world)
            yield own


def _without_credentials(options: dict[str, Any]) -> dict[str, Any]:
    """A run folder is shown to others: of URLs it keeps what names the place, not what opens it."""
    return {
        name: redact(value)
        if isinstance(value, str)
        else [redact(part) if isinstance(part, str) else part for part in value]
        if isinstance(value, list)
        else value
        for name, value in options.items()
    }


def goes_on(run: RunFolder, resume: str | None) -> bool:
    """Whether `find_start` will load a checkpoint."""
    return resume is not None or has_checkpoints(run.checkpoints)


def find_start(training: Training, resume: str | None, origin: str) -> Start:
    """Load what the run goes on from, and say so: this folder's newest checkpoint, or else `resume`.

    origin: said where there is neither, of the weights that the model has.

    Raises:
        ValueError: a checkpoint that is absent, damaged, or does not fit the model, the data or the plan.
    """
    say = training.console.say
    checkpoint = newest_checkpoint(training.run.checkpoints, say)
    from_elsewhere = resume if checkpoint is None else None
    if from_elsewhere is not None:
        checkpoint = find_checkpoint(from_elsewhere, "--resume", say)
    if checkpoint is None:
        say(origin)
        start = Start()
    else:
        load_weights(checkpoint, training.model)
        load_optimizer(checkpoint, training.optimizer)
        if training.average is not None:
            load_average(checkpoint, training.average)
        elif checkpoint.has_average:
            say(f"note: the average of the weights in {checkpoint.path} is left behind: this run keeps none")
        training.stream.load_state(checkpoint.state["stream"])
        say(f"going on from {checkpoint.path}, step {checkpoint.step:,}")
        _warn_of_changes(checkpoint, training)
        start = Start(checkpoint.step, checkpoint.state)
    if from_elsewhere is not None:
        others = {name: value for name, value in start.state.items() if name != "anomalies"}  # by that run's steps
        start = Start(_steps_until(training, from_elsewhere), others)
    if training.world.rank == 0:
        training.run.cut_metrics(start.step)
    return start


def bit_equality_depends_on(world: World) -> dict[str, str | int]:
    """What must be the same, beside data and options, for a resumed run to be bit-equal to an uninterrupted one."""
    on_gpu = world.device.type == "cuda"
    device = torch.cuda.get_device_name(world.device) if on_gpu else torch.backends.cpu.get_cpu_capability()
    return {"world": world.size, "threads": torch.get_num_threads(), "torch": torch.__version__, "device": device}


def loader_workers(asked: int | None, world: World) -> int:
    """Loader processes for each training process: as asked, or one for every core but one, 16 at most."""
    if asked is not None:
        return asked
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, cores // beside - 1))


def _open(world: World, out: Path, opened: Callable[..., RunFolder]) -> RunFolder:
    """Rank 0 locks the folder. The others wait for it and, where it could not, leave quietly: it says why."""
    run = None
    try:
        if world.rank == 0:
            # Of a former self on a host that was lost nobody knows but by its silence. Meanwhile the others wait.
            wait = LONG_ENOUGH if world.size == 1 else min(LONG_ENOUGH, world.patience / 2)
            run = opened(lock_wait_seconds=wait)
    finally:
        is_refused = world.any(world.rank == 0 and run is None)
    if is_refused:
        raise SystemExit(1)
    return run or RunFolder(out)


def _prepare(run: RunFolder, world: World) -> None:
    run.checkpoints.mkdir(exist_ok=True)
    run.figures.mkdir(exist_ok=True)
    run.write_json(run.environment, {**environment(LIBRARIES), **bit_equality_depends_on(world)})


@contextmanager
def _endings_recorded(run: RunFolder, console: Console) -> Iterator[None]:
    """Word in exit.json of an end by an error, or by TERM where no step is on its way."""
    is_whole = False
    try:
        yield
        is_whole = True
    except Terminated:
        is_whole = True
        step = newest_step(run.checkpoints)
        run.write_exit("preempted", step=step)
        console.say(f"asked to stop outside of training: saved is step {step}; the same command goes on from there")
        raise
    finally:
        if not is_whole:
            record_failure(run, sys.exception())
            with suppress(OSError):
                run.close()


def record_failure(run: RunFolder, error: BaseException | None) -> None:
    """Leave word in exit.json of a run that failed; for rank 0."""
    cause = "lost" if isinstance(error, RankLostError) else "error"
    trace = "".join(traceback.format_exception(error))
    # What a full disk does not let us write must not hide why the run failed.
    with suppress(OSError, LockLostError):
        run.write_exit("failed", cause=cause, error=told(error), traceback=trace)


def told(error: BaseException | None) -> str:
    """The message; of an OSError with a text of our own without the number that Python puts before it."""
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        return error.strerror
    return str(error)


def _steps_until(training: Training, resume: str) -> int:
    """Where another run stood, in batches of this one: of that run only the place in the stream is sure to mean it."""
    position, size = training.stream.position, training.stream.batch_size
    if position % size != 0:
        raise ValueError(
            f"--resume {resume}: it stands at position {position:,} of the stream, not a whole number of batches of "
            f"{size}; give a --batch-size that divides it, or start with its weights alone: --init-from {resume}"
        )
    return position // size


def _warn_of_changes(checkpoint: Checkpoint, training: Training) -> None:
    recorded = checkpoint.state["promise"]
    changed = [
        f"{name} {recorded.get(name)} -> {value}"
        for name, value in training.promise.items()
        if recorded.get(name) != value
    ]
    if changed:
        training.console.say(
            f"warning: not bit-equal to an uninterrupted run from here on: {'; '.join(changed)} "
            "(samples, pixels and masks stay the same)"
        )
