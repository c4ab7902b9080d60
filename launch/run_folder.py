"""The folder of a run: where its files are, whether a start here begins or continues a run, and its small files.

    config.json  environment.json  metrics.jsonl  evaluation.json  exit.json  stop
    checkpoints/  figures/  anomalies/  stalls/  tensorboard/  encoder/  model/  best/

Rank 0 opens it with `open_run`, which locks it; other ranks make a `RunFolder` of the path, and only read, but for what
they tell of themselves in `stalls`.
"""

import dataclasses
import datetime
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from launch.atomic import Guard, clean_partials, explain_full_disk, write_atomically, write_json
from launch.lock import WorldLock
from launch.run_identity import compare_run

ExitStatus = Literal["done", "preempted", "failed"]


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths and small files of one run. Writing is for rank 0; with a lock, `guard` is checked before every write."""

    path: Path
    lock: WorldLock | None = None
    continues: bool = False
    """Whether the folder held this run already when it was opened."""
    changes: tuple[tuple[str, Any, Any], ...] = ()
    """(dotted field, value in the folder, value asked for) of the fields that were changed on continuing."""

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def exit(self) -> Path:
        return self.path / "exit.json"

    @property
    def stop(self) -> Path:
        return self.path / "stop"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def encoder(self) -> Path:
        return self.path / "encoder"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def best(self) -> Path:
        """The model of the best evaluation, where that was not the last."""
        return self.path / "best"

    @property
    def anomalies(self) -> Path:
        return self.path / "anomalies"

    @property
    def stalls(self) -> Path:
        """Where each process was when the run did not get on."""
        return self.path / "stalls"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def guard(self) -> Guard | None:
        """What the functions of `launch.atomic` call before a rename; None without a lock."""
        return None if self.lock is None else self.lock.check

    def write_json(self, path: Path, value: Any) -> None:
        """Writes one of the JSON files above, atomically. Raises LockLostError, ValueError for NaN, OSError."""
        write_json(path, value, self.guard)

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Adds one line to metrics.jsonl; `metrics` must hold "step". NaN and infinities, not in JSON, become null.

        Raises LockLostError, and OSError on a full disk, when the lines before stay whole.
        """
        assert "step" in metrics
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
        line = (json.dumps(finite, allow_nan=False) + "\n").encode()
        if self.lock is not None:
            self.lock.check()
        with explain_full_disk(self.metrics, len(line)), open(self.metrics, "ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                written = file.write(line)
                # The disk took a part: asking for the rest makes it say why.
                while written < len(line):
                    written += file.write(line[written:])
            except OSError:
                file.truncate(before)
                raise

    def sync_metrics(self) -> None:
        """Forces the lines of metrics.jsonl to the disk, so that none before a checkpoint is lost. Raises OSError."""
        if self.metrics.exists():
            with open(self.metrics, "rb") as file:
                os.fsync(file.fileno())

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, without a last one that a crash has torn; [] when there is no such file.

        Raises ValueError naming the line when one before the last is not JSON with a step.
        """
        if not self.metrics.exists():
            return []
        rows: list[dict[str, Any]] = []
        torn: int | None = None
        for number, line in enumerate(self.metrics.read_bytes().split(b"\n"), start=1):
            row = _parse_row(line)
            if row is not None and torn is not None:
                raise ValueError(f"{self.metrics}: line {torn} is not a JSON object with a step; remove it")
            if row is not None:
                rows.append(row)
            elif line and torn is None:
                torn = number
        return rows

    def cut_metrics(self, step: int) -> int:
        """Drops, atomically, the lines after `step`, which a run resuming from that step writes again, and a torn end.

        Returns the number of lines dropped. Raises what `read_metrics` raises, LockLostError and OSError.
        """
        if not self.metrics.exists():
            return 0
        content = self.metrics.read_bytes()
        lines = [line for line in content.split(b"\n") if line]
        kept = [row for row in self.read_metrics() if row["step"] <= step]
        if len(kept) < len(lines) or (lines and not content.endswith(b"\n")):
            write_atomically(self.metrics, "".join(json.dumps(row) + "\n" for row in kept), self.guard)
        return len(lines) - len(kept)

    def write_exit(self, status: ExitStatus, **details: Any) -> None:
        """Writes exit.json, which wrappers read: exit codes do not survive every launcher.

        Of a run that failed `details` has the `error`, and as its `cause` "lost" where other processes of it have ended
        or cannot be reached, so that the same command may well go on, and else "error".
        """
        ended = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.write_json(self.exit, {"status": status, "ended": ended, **details})

    def stop_requested(self) -> bool:
        """Whether someone has made the file `stop`, which asks the run to save and leave."""
        return self.stop.exists()

    def clear_stop(self) -> None:
        """To be called when the run acts on the request, so that the next start does not stop at once."""
        self.stop.unlink(missing_ok=True)

    def close(self) -> None:
        """Releases the lock."""
        if self.lock is not None:
            self.lock.release()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_run(
    path: Path,
    config: Mapping[str, Any],
    may_change: frozenset[str] = frozenset(),
    *,
    at_default: frozenset[str] = frozenset(),
    lock_wait_seconds: float = 0.0,
    say: Callable[[str], None] = print,
) -> RunFolder:
    """Locks `path` and begins a run there, or continues the one that it holds. For rank 0; close it at the end.

    `config` is plain JSON. When the folder holds the same run, fields may differ if they, or a field they lie in, are
    among the dotted names of `may_change`; config.json then gets the new values. What an earlier start left behind
    (exit.json, stop, unfinished files) is removed. `at_default`: see `compare_run`. `lock_wait_seconds` and `say`: see
    `WorldLock.acquire`.

    Raises ValueError for a folder that is no run's, or another run's; FolderInUseError; OSError.
    """
    config = json.loads(json.dumps(config, allow_nan=False))
    # Before the lock, so that nothing is put into a folder that is not ours; after it again, as it may have changed.
    compare_run(path, config, may_change, at_default)
    lock = WorldLock(path)
    lock.acquire(lock_wait_seconds, say)
    try:
        continues, changes = compare_run(path, config, may_change, at_default)
        run = RunFolder(path, lock, continues, changes)
        for folder in (path, run.checkpoints, run.figures, run.anomalies):
            clean_partials(folder)
        run.exit.unlink(missing_ok=True)
        run.clear_stop()
        if changes or not continues:
            run.write_json(run.config, config)
    except (OSError, ValueError, RuntimeError):
        lock.release()
        raise
    return run


def _parse_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), (int, float)) else None
