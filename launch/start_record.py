"""The starts of a job, remembered in a file from one to the next: what the run had before, and how each was judged."""

import datetime
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from launch.atomic import write_json
from launch.run_folder import RunFolder
from launch.strict_json import from_json, read_json, to_json
from launch.verdict import Verdict


@dataclass(frozen=True)
class StartRecord:
    """One start of a job.

    restart: which, from 0. began: UTC. nodes: as Slurm names them. exit_before: modification time of the exit.json that
    was there, in nanoseconds, and checkpoints_before what `checkpoints/latest` and those of runs inside named; so that
    what is found later is known to be of this start.
    """

    restart: int
    began: str
    nodes: str
    exit_before: int | None
    checkpoints_before: tuple[str, ...]
    verdict: Literal["done", "failed", "stopped", "requeue", "left"] | None = None
    why: str = ""
    has_saved: bool = False
    """Whether checkpoints were written; known once it is judged."""


@dataclass(frozen=True)
class JobRecord:
    """A job of Slurm's, or a task of an array, and the run folder that it fills."""

    job: str
    run: str
    starts: tuple[StartRecord, ...] = ()

    @property
    def last(self) -> StartRecord | None:
        """The start that is under way, or was the last."""
        return self.starts[-1] if self.starts else None

    def begin(self, restart: int, nodes: str) -> "JobRecord":
        """With one start more, told of once or twice; what is not known of those before was Slurm's doing."""
        run = Path(self.run)
        before = tuple(
            start if start.verdict else self._ended(start, Verdict("left", "Slurm broke the start before off"))
            for start in self.starts
            if start.restart < restart
        )
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return replace(self, starts=(*before, StartRecord(restart, now, nodes, _written(run), _checkpoints(run))))

    def word(self, restart: int) -> dict[str, Any] | None:
        """exit.json, where this start has written it."""
        start = self._start(restart)
        written = _written(Path(self.run))
        if start is None or written is None or written == start.exit_before:
            return None
        return read_json(RunFolder(Path(self.run)).exit)

    def judged(self, restart: int, verdict: Verdict) -> "JobRecord":
        """With what has become of a start."""
        start = self._start(restart)
        return self if start is None else replace(self, starts=(*self.starts[:-1], self._ended(start, verdict)))

    @property
    def vain_starts(self) -> int:
        """How many of the last starts were to go on and had saved nothing; those that Slurm broke off do not count."""
        count = 0
        for start in reversed(self.starts):
            if start.has_saved:
                break
            count += start.verdict == "requeue"
        return count

    def write(self, path: Path) -> None:
        """As JSON, atomically. Raises OSError."""
        write_json(path, to_json(self))

    def _ended(self, start: StartRecord, verdict: Verdict) -> StartRecord:
        has_saved = _checkpoints(Path(self.run)) != start.checkpoints_before
        return replace(start, verdict=verdict.kind, why=verdict.why, has_saved=has_saved)

    def _start(self, restart: int) -> StartRecord | None:
        return self.last if self.last is not None and self.last.restart == restart else None


def read_record(path: Path) -> JobRecord | None:
    """None where there is no such file. Raises ValueError for another's."""
    return from_json(JobRecord, read_json(path), str(path)) if path.exists() else None


def _written(run: Path) -> int | None:
    try:
        return os.stat(RunFolder(run).exit).st_mtime_ns
    except FileNotFoundError:
        return None


def _checkpoints(run: Path) -> tuple[str, ...]:
    """What the newest checkpoints are called: of the run, and of those in its folders, such as a teacher's."""
    marks: Iterable[Path] = sorted([*run.glob("checkpoints/latest"), *run.glob("*/checkpoints/latest")])
    return tuple(f"{mark.relative_to(run)}: {mark.read_text().strip()}" for mark in marks)
