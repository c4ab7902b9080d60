"""Runs in Weights & Biases and trackio: the same one after every start, with every step once.

Neither can take back what it was given, and both lose what waits in their queues when they are killed. So a start asks
what the service has: of the steps that are done a second time only what it lacks is given, and what it lacks of those
before is given from metrics.jsonl. That also fills in a run which has had another tracker until now.
"""

import contextlib
import contextvars
import importlib
import io
import os
import shlex
import struct
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from launch.redaction import redact
from launch.run_folder import RunFolder

_PROJECT = "sherd"
_PATIENCE_SECONDS = 30


def told(error: BaseException) -> str:
    """An error in one line, without credentials: `CommError: no route to host`."""
    text = " ".join(str(error).split())
    return redact(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What can be drawn of a row of metrics.jsonl: no step, no text, no null."""
    return {name: float(value) for name, value in row.items() if name != "step" and isinstance(value, Real)}


class Wandb:
    """A run in W&B's project WANDB_PROJECT, by default `sherd`; without a server it is kept in the run folder.

    A row of W&B is a step, and rows only grow: what is evaluated again at `start` may stand one row later.
    """

    def __init__(
        self,
        wandb: Any,
        run: Path,
        identity: str,
        *,
        config: Mapping[str, Any],
        start: int,
        say: Callable[[str], None],
    ) -> None:
        self._wandb = wandb
        self._start = start
        folder = run / "wandb"
        kept_step = _last_kept_step(folder, identity)

        def begin(**mode: str) -> Any:
            return wandb.init(
                project=os.environ.get("WANDB_PROJECT") or _PROJECT,
                name=run.resolve().name,
                id=identity,
                dir=run,
                config=dict(config),
                resume="allow",
                # A second run in this process gets a run of its own instead of the first one.
                reinit="create_new",
                settings=_settings(wandb.Settings),
                **mode,
            )

        try:
            self._run = begin()
        except wandb.Error as error:
            say(f"warning: --tracker wandb: {told(error)}; this run is kept in {folder}: `wandb sync` sends it later")
            # Its service would refuse the id, which the failed attempt holds.
            wandb.teardown()
            self._run = begin(mode="offline")
        # Offline it does not look at what earlier starts have left in the folder.
        self._first: int = kept_step + 1 if self._run.offline else self._run.step
        for step, values in _missed(run, self._first, start):
            self._run.log(values, step=step)
        if self._run.offline:
            say(f"curves, later: wandb sync {shlex.quote(str(folder))}")
        else:
            say(f"curves: {self._run.url or 'nowhere, as WANDB_MODE is disabled'}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers into the row of this step."""
        self._give(step, values)

    def image(self, step: int, name: str, png: Path) -> None:
        """A copy of the file into the row of this step."""
        self._give(step, {name: self._wandb.Image(str(png))})

    def close(self) -> None:
        """Raises TimeoutError where the server does not take the rest in time: it is in the run folder."""
        self._run.finish()

    def _give(self, step: int, content: Mapping[str, Any]) -> None:
        if not _has(step, self._start, self._first):
            self._run.log(dict(content), step=max(step, self._first))


class Trackio:
    """A run in trackio's project `sherd`, where TRACKIO_DIR, TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say."""

    def __init__(
        self,
        trackio: Any,
        run: Path,
        identity: str,
        *,
        config: Mapping[str, Any],
        start: int,
        say: Callable[[str], None],
    ) -> None:
        self._trackio = trackio
        self._start = start
        # It keeps its current run in the context, and ends that a second time when the program ends.
        self._context = contextvars.copy_context()
        # It knows runs by their names.
        name = f"{run.resolve().name}-{identity}"
        options = {"project": _PROJECT, "name": name, "config": dict(config), "resume": "allow"}
        with _silence():
            self._run = self._context.run(lambda: trackio.init(**options))
        # Nothing public says how far it has come.
        self._first: int = getattr(self._run, "_next_step", 0)
        for step, values in _missed(run, self._first, start):
            self._run.log(values, step=step)
        say(f"curves: trackio show --project {_PROJECT} (run {name})")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of this step."""
        self._give(step, values)

    def image(self, step: int, name: str, png: Path) -> None:
        """A copy of the file, at this step."""
        self._give(step, {name: self._trackio.Image(str(png))})

    def close(self) -> None:
        """Waits at most half a minute for what has not been handed over."""
        with _silence():
            self._context.run(self._trackio.finish)

    def _give(self, step: int, content: Mapping[str, Any]) -> None:
        if not _has(step, self._start, self._first):
            self._run.log(dict(content), step=step)


def _has(step: int, start: int, first: int) -> bool:
    """Whether a service whose first free step was `first` has this one, in a run that goes on from `start`.

    At `start` itself only what an interruption has left out comes a second time, so if nothing after it has come.
    """
    return first > start + 1 if step <= start else step < first


def _missed(run: Path, first: int, start: int) -> Iterator[tuple[int, dict[str, float]]]:
    """What metrics.jsonl has from step `first` until the run goes on."""
    rows = RunFolder(run).read_metrics() if first <= start else []
    for row in rows:
        if first <= row["step"] <= start:
            yield row["step"], numbers(row)


def _silence() -> contextlib.AbstractContextManager[Any]:
    """Keeps what trackio prints out of logs: its addresses may hold the token that lets others write."""
    return contextlib.redirect_stdout(io.StringIO())


def _settings(settings_type: Any) -> Any:
    known = settings_type.model_fields
    patience = {"finish_timeout": _PATIENCE_SECONDS, "finish_timeout_raises": True}  # since 0.29
    return settings_type(
        console="off",
        quiet=True,
        save_code=False,
        # The command line and the address of the git remote may hold passwords; environment.json has the first without.
        x_disable_meta=True,
        disable_git=True,
        init_timeout=_PATIENCE_SECONDS,
        **{name: value for name, value in patience.items() if name in known},
    )


def _last_kept_step(folder: Path, identity: str) -> int:
    """The last row that W&B has kept of this run in the run folder, sent or not; -1 where there is none."""
    starts = folder.glob(f"*run-*-{identity}*/*.wandb")  # a second one within a second is numbered
    for path in sorted(starts, key=lambda path: path.parent.name.removeprefix("offline-"), reverse=True):
        if steps := list(_kept_steps(path)):
            return max(steps)
    return -1


def _kept_steps(path: Path) -> Iterator[int]:
    """The rows of one file, which is a LevelDB log: pieces of records in blocks of 32 KB, after a head of 7 bytes."""
    record_type = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    content, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left_in_block = 32768 - place % 32768
        if left_in_block < 7:
            place += left_in_block
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind not in (1, 2, 3, 4) or place > len(content):
            return  # what a kill has left unwritten
        if kind in (1, 4):
            entry = record_type.FromString(record)
            record = b""
            if entry.HasField("history"):
                yield entry.history.step.num
