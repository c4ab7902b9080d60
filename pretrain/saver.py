"""Checkpoints off the critical path: copied at a step, written by a thread while training goes on."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from launch.run_folder import RunFolder
from pretrain.averaging import Average
from pretrain.checkpoint import move_latest, prune, save_checkpoint
from pretrain.snapshot import Snapshot


@dataclass(frozen=True)
class Keeping:
    """Which checkpoints stay: the newest `last`, and those of steps divisible by `every`, unless that is 0.

    Of a run that chooses the best one, that stays as well.
    """

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

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any],
        *,
        average: Average | None = None,
        records: tuple[int, ...] = (),
    ) -> None:
        """Copy, and begin to write. Every process must call it. Raises what the writing before has met.

        records: see `prune`.
        """
        begin = time.perf_counter()
        self.wait()
        self._snapshot.take(model, optimizer, average)
        if self._writes:
            # Not a daemon: should the process end by an error elsewhere, what is being written is ended first.
            self._thread = threading.Thread(target=self._write, args=(dict(state), records))
            self._thread.start()
        self.stalled += time.perf_counter() - begin

    def prune(self, records: tuple[int, ...]) -> None:
        """Remove what is not kept any more; for the process that writes, while nothing is being written."""
        assert self._writes
        assert self._thread is None
        prune(self._run.checkpoints, self._keeping.last, every=self._keeping.every, records=records)

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

    def _write(self, state: Mapping[str, Any], records: tuple[int, ...]) -> None:
        run, keeping, copy = self._run, self._keeping, self._snapshot
        try:
            run.sync_metrics()
            average = copy.average if "average" in state else None
            path = save_checkpoint(run.checkpoints, copy.weights, copy.moments, state, run.guard, average=average)
            move_latest(run.checkpoints, path, keeping.last, run.guard, every=keeping.every, records=records)
        except Exception as error:  # noqa: BLE001 - raised again where training can act on it
            self._error = error

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
        elif self._thread is not None:  # the error that is on its way says more
            self._thread.join()
