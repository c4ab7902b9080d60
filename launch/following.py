"""Watching a job from where it was submitted: how far its runs are, until all have ended."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.console import format_duration, format_rate
from launch.run_folder import RunFolder
from launch.slurm_queue import Queued, SlurmError, queued
from launch.start_record import JobRecord, read_record
from launch.strict_json import read_json

_ENDED = ("done", "failed", "stopped")


@dataclass
class _Task:
    """A job of Slurm's and its run, as they were when last told of."""

    run: Path
    said: str = ""
    place: str = ""
    when: float = -math.inf
    missed: int = 0


@dataclass(frozen=True)
class Follower:
    """Tells how the tasks of a job get on: at once when Slurm starts or ends one, of steps every `every` seconds."""

    job: str
    runs: Mapping[str, Path]
    """Run folders by the numbers of the tasks."""
    logs: Path
    say: Callable[[str], None] = print
    pause: float = 3.0
    every: float = 30.0
    _tasks: dict[str, _Task] = field(default_factory=dict)

    def follow(self) -> int:
        """Until the job has ended. The exit code: 0 where every run is done, else 1."""
        self._tasks.update({number: _Task(run) for number, run in self.runs.items()})
        complaint, code = "", 0
        while self._tasks:
            try:
                there = queued(self.job)
                complaint = ""
            except SlurmError as error:
                if str(error) != complaint:
                    self.say(f"{error}; trying on")
                complaint = str(error)
                time.sleep(self.pause)
                continue
            for number, task in list(self._tasks.items()):
                if number in there:
                    task.missed = 0
                    self._tell(number, task, there[number])
                    continue
                task.missed += 1
                record = read_record(self.logs / f"{number}.json")
                # File servers show what another machine has written after a while.
                if is_over(record) or task.missed > 3:
                    del self._tasks[number]
                    code |= self._conclude(number, task, record)
            if self._tasks:
                time.sleep(self.pause)
        return code

    def _tell(self, number: str, task: _Task, queue: Queued) -> None:
        state = state_line(queue, read_record(self.logs / f"{number}.json"))
        if state != task.said:
            self.say(f"{self._name(number)}: {state}")
            task.said, task.when = state, time.monotonic()
        place = progress_line(RunFolder(task.run)) if queue.state == "RUNNING" else ""
        if place not in ("", task.place) and time.monotonic() - task.when >= self.every:
            self.say(f"{self._name(number)}: {place}")
            task.place, task.when = place, time.monotonic()

    def _conclude(self, number: str, task: _Task, record: JobRecord | None) -> int:
        last = None if record is None else record.last
        if last is None or last.verdict not in _ENDED:
            self.say(f"{self._name(number)}: has ended, cancelled or lost; the same command goes on with {task.run}")
            return 1
        said, place = f"{self._name(number)}: {last.why}", progress_line(RunFolder(task.run))
        if last.verdict == "failed":
            self.say(f"{said}; logs: {self.logs}/{number}-{last.restart}-*.out and {number}.out")
        else:
            self.say(f"{said}; {place}" if place else said)
        return int(last.verdict != "done")

    def _name(self, number: str) -> str:
        return f"job {number}" if len(self.runs) == 1 else f"job {number} ({self.runs[number].name})"


def is_over(record: JobRecord | None) -> bool:
    """Whether the batch script has left word that there will be no further start."""
    return record is not None and record.last is not None and record.last.verdict in _ENDED


def state_line(queue: Queued, record: JobRecord | None) -> str:
    """`running on n[1-2], start 2, after: the job was preempted`."""
    starts = () if record is None else record.starts
    # Between Slurm's start of a job and the batch script's word the last start is the one before.
    is_under_way = bool(starts) and starts[-1].verdict is None
    earlier = starts[:-1] if is_under_way else starts
    after = f", after: {earlier[-1].why}" if earlier and earlier[-1].why else ""
    if queue.state == "RUNNING":
        number = starts[-1].restart + (1 if is_under_way else 2) if starts else 1
        return f"running on {queue.nodes}, start {number}{after}"
    reason = f" ({queue.reason})" if queue.reason not in ("", "None") else ""
    return f"{queue.state.lower()}{reason}{after}"


def progress_line(run: RunFolder) -> str:
    """`step 120 of 300, loss 0.4321, 1,234 images/s, 0:01:02 left`; "" before the first line of metrics.jsonl."""
    row = _last_row(run.metrics)
    if row is None:
        return ""
    config = read_json(run.config) if run.config.exists() else {}
    step, total = int(row["step"]), _total_steps(config, row)
    parts = [f"step {step:,}" + ("" if total is None else f" of {total:,}")]
    if isinstance(row.get("loss"), float):
        parts.append(f"loss {row['loss']:.4g}")
    rate, batch = row["images_per_second"], config.get("batch_size")
    if isinstance(rate, (int, float)) and rate > 0:
        parts.append(f"{format_rate(rate)} images/s")
        if total is not None and total > step and isinstance(batch, int):
            parts.append(f"{format_duration((total - step) * batch / rate)} left")
    return ", ".join(parts)


def _total_steps(config: Mapping[str, Any], row: Mapping[str, Any]) -> int | None:
    """From the share of an epoch that a step is; None where the files do not say."""
    epochs, epoch = config.get("epochs"), row.get("epoch")
    if not isinstance(epochs, (int, float)) or not isinstance(epoch, (int, float)) or epoch <= 0:
        return None
    # The last batch is a whole one; the sum of rounding errors must not make it one more.
    return math.ceil(epochs * row["step"] / epoch - 1e-6)


def _last_row(metrics: Path) -> dict[str, Any] | None:
    """The last whole line about a step of training; only the end of the file is read, which is long."""
    try:
        with open(metrics, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 65536))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    for line in reversed(lines[:-1]):
        try:
            row = json.loads(line)
        except ValueError:  # the first of what was read, cut off
            continue
        if isinstance(row, dict) and "step" in row and "images_per_second" in row:
            return row
    return None
