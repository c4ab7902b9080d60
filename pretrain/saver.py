"""Checkpoints off the critical path: copied at a step, written by a thread while training goes on."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from launch.run_folder import RunFolder
from pretrain.checkpoint import move_latest, save_checkpoint
from pretrain.snapshot import Snapshot


@dataclass(frozen=True)
class Keeping:
    """Which checkpoints stay: the newest `last`, and those of steps divisible by `every`, unless that is 0."""

    last: int
    every: int


class Saver:
    """Writes one checkpoint at a time; the next waits for it. Use it in a `with`, which waits for the last one.

    What the thread meets (a full disk, another world in the folder) is raised by the next call.
    """

    def __init__(self, run: RunFolder, keeping: Keeping, *, writes: bool) -> None:
        self._run = run
        self._keeping = keeping
        self._writes = writes
        self._snapshot = Snapshot(keeps=writes)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self.stalled = 0.0
        """Seconds that training has spent on copies, and on waiting for the checkpoint before."""

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Copy, and begin to write. Every process must call it. Raises what the writing before has met."""
        begin = time.perf_counter()
        self.wait()
        self._snapshot.take(model, optimizer)
        if self._writes:
            # Not a daemon: should the process end by an error elsewhere, what is being written is ended first.
            self._thread = threading.Thread(target=self._write, args=(dict(state),))
            self._thread.start()
        self.stalled += time.perf_counter() - begin

    def check(self) -> None:
        """Raise what the thread has met, if anything."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Return when everything is written. Raises what the thread has met."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _write(self, state: Mapping[str, Any]) -> None:
        run, keeping = self._run, self._keeping
        try:
            run.sync_metrics()
            path = save_checkpoint(run.checkpoints, self._snapshot.weights, self._snapshot.moments, state, run.guard)
            move_latest(run.checkpoints, path, keeping.last, run.guard, every=keeping.every)
        except Exception as error:  # noqa: BLE001 - raised again where training can act on it
            self._error = error

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
        elif self._thread is not None:  # the error that is on its way says more
            self._thread.join()
