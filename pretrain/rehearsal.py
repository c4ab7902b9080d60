"""A rehearsal: some steps of the run itself, with the batch that each of its processes will have, and a checkpoint."""

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_pipeline.free_memory import free_memory
from launch.run_folder import RunFolder
from pretrain.checkpoint import newest_step
from pretrain.findings import Finding, counted, told_bytes
from pretrain.matrix_rate import matrix_rate
from pretrain.planned_run import PlannedRun, rehearsal_config
from pretrain.world import World

_SECONDS = 3.0  # of steps that are measured, the first logged ones left out
_MOST_SECONDS = 30.0  # after the first logged step
_LINES = 3
_CPU_STEP_SECONDS = 2.0  # a step on a CPU is cut down to about this
_SPEED = 0.3  # of large matrices' rate that a step reaches, about
_BYTES_A_PARAMETER = 16  # weights, gradients and two averages in fp32
_FULL = 0.92  # of a GPU's memory: what lies beside torch, and pieces too small to use, take the rest


@dataclass(frozen=True)
class Size:
    """How a rehearsal is cut: images of each process in a step, and steps between two lines of its log."""

    rows: int
    log_every: int


@dataclass(frozen=True)
class Rehearsed:
    """What was measured. rate: images a second of each process while it computes. waited: share of the time in which it
    waited for data. memory: bytes at most, of a process. weights, checkpoint: bytes on the disk. said: by the run.
    """

    rows: int
    steps: int
    rate: float
    waited: float
    memory: int
    weights: int
    checkpoint: int
    said: tuple[str, ...]

    def step_seconds(self, rows: int) -> float:
        """Seconds that a step with so many images of each process computes."""
        return rows / self.rate


def size_of_rehearsal(planned: PlannedRun, rows: int, world: World) -> Size | None:
    """The run's own rows on a GPU; on a CPU no more than two seconds' worth; None where the memory is too small."""
    own = matrix_rate(world.device, planned.config.precision)
    (rate,) = world.gather([own])[:1]  # every process has the same
    seconds = planned.flops / (rate * _SPEED)
    if world.device.type == "cpu":
        free = free_memory()
        (is_small,) = world.gather([free is not None and planned.parameters * _BYTES_A_PARAMETER * 2 > free])[:1]
        if is_small:
            return None
        fitting = max(1, int(_CPU_STEP_SECONDS / seconds))
        if fitting < rows:
            rows = fitting - fitting % 2 or 1  # even, so that images can be mixed
    return Size(rows, max(1, min(planned.config.log_every, int(_SECONDS / (_LINES + 1) / (rows * seconds)))))


def rehearse(recipe: str, planned: PlannedRun, world: World, out: Path, size: Size) -> Rehearsed:
    """Train for some steps in the folder `out`, which does not exist yet. Every process must call it.

    Raises:
        ValueError, OSError, OutOfMemoryError and whatever else ends the run.
    """
    config = rehearsal_config(planned, str(out), size.rows * world.size, world.size, size.log_every)
    run, told = RunFolder(out), io.StringIO()
    watching = _stopped_when_measured(run) if world.rank == 0 else nullcontext()
    with watching, redirect_stdout(told):
        planned.train(recipe, config, world)
    found: list[Rehearsed] = []
    if world.rank == 0:
        newest = run.checkpoints / f"step-{newest_step(run.checkpoints):08d}"
        files = {path.name: path.stat().st_size for path in newest.iterdir()}
        lines = [line for line in run.read_metrics() if "images_per_second" in line]
        said = tuple(line for line in told.getvalue().splitlines() if line.startswith(("data:", "step:", "warning:")))
        rate, waited, steps = rates(lines, config.batch_size, world.size)
        memory = max(line["memory"] for line in lines)
        weights = files["model.safetensors"]
        found = [Rehearsed(size.rows, steps, rate, waited, memory, weights, sum(files.values()), said)]
    return world.gather(found)[0]


def rates(lines: Sequence[dict[str, Any]], batch_size: int, processes: int) -> tuple[float, float, int]:
    """Of lines of metrics.jsonl: images a second of each process while it does not wait, the share of the time in which
    it waits for data, and how many steps that was.

    The first line, of steps that prepare what later ones use, counts only where there is no other.
    """
    before = [0, *(line["step"] for line in lines[:-1])]
    counted = [(line, line["step"] - start) for line, start in zip(lines, before, strict=True)][
        min(1, len(lines) - 1) :
    ]
    seconds = waits = 0.0
    for line, steps in counted:
        spent = steps * batch_size / line["images_per_second"]
        seconds += spent
        waits += spent * line["data_wait"]
    count = sum(steps for _, steps in counted)
    return count * batch_size / processes / max(seconds - waits, 1e-9), waits / seconds, count


def judge_memory(found: Rehearsed, total: int | None, rows: int, *, is_shared: bool) -> Finding:
    """Whether a step fits with some room: total is the GPU's memory in bytes, None on a CPU, where nothing is judged.

    is_shared: the run shares weights out over more processes than rehearsed, so that each holds less.
    """
    what, measured = "memory", f"{told_bytes(found.memory)} at most with {counted(found.rows, 'image')} of each process"
    if total is None:
        measured += " (of this process, on the CPU)"
        return Finding(
            "warning", what, measured, f"{counted(rows, 'image')} on a GPU", "give this command where the GPU is"
        )
    less = ", before weights are shared out" if is_shared else ""
    needed = f"less than {told_bytes(total * _FULL)} of the GPU's {told_bytes(total)}"
    if found.memory <= total * _FULL:
        return Finding("ok", what, measured + less, needed)
    return Finding("warning", what, measured + less, needed, "--accumulate 2 leaves room, and gives the same result")


@contextmanager
def _stopped_when_measured(run: RunFolder) -> Iterator[None]:
    """In here a run is asked to stop once enough of its steps have been logged."""
    is_over = threading.Event()
    thread = threading.Thread(target=_watch, args=(run, is_over.wait), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _watch(run: RunFolder, wait: Callable[[float], bool]) -> None:
    waited = 0.0
    while not wait(0.05):
        lines = len(run.read_metrics())
        waited += 0.05 if lines > 0 else 0.0
        if (lines > _LINES and waited > _SECONDS) or waited > _MOST_SECONDS:
            run.stop.touch()
            return


def gpu_memory(device: torch.device) -> int | None:
    """Bytes of a GPU; None of anything else."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
