"""Processes that work through independent tasks: a dead one is noticed and named, and none outlives its parent long."""

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from time import monotonic
from types import TracebackType
from typing import Any, Protocol

_REPORT_SECONDS = 0.2

Report = Callable[[int], None]
"""Called by a task with the number of items done since its last call."""


class Task(Protocol):
    """Runs in a worker. Pickled on its way there, so keep it small; `str()` is how messages name it."""

    def run(self, report: Report) -> Any:
        """May raise ValueError and OSError, which reach the user."""
        ...


class WorkerDiedError(RuntimeError):
    """A worker process ended in the middle of a task."""


def attempt(task: Task, report: Report) -> tuple[str, Any]:
    """Run a task where it was sent: ("done", its result), or ("failed", an error for the user that can be sent back).

    Any other error passes through.
    """
    try:
        return "done", task.run(report)
    except (ValueError, OSError) as error:
        return "failed", _portable(error)


def _portable(error: ValueError | OSError) -> ValueError | OSError:
    """The error, or where a library's own kind would not survive the way back, a plain one with its message."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - made in the same line
    except Exception:  # noqa: BLE001 - a constructor of others may raise anything
        plain = ValueError if isinstance(error, ValueError) else OSError
        return plain(str(error))
    return error


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    task: Task | None = None


class TaskPool:
    """At most `processes` worker processes, started when there is work; use it in a `with`.

    Leaving it ends them: at once if an exception does, such as Ctrl-C, so tasks must leave nothing half-written.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._workers: list[_Worker] = []

    def __enter__(self) -> "TaskPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self._workers:
            if kind is not None:
                worker.process.terminate()
            worker.connection.close()  # seen by an idle worker, which ends then
        for worker in self._workers:
            worker.process.join()
        self._workers.clear()

    def run(self, tasks: Iterable[Task], report: Report) -> Iterator[Any]:
        """The tasks' results in the order in which they finish; tasks are taken only as workers become free.

        Raises:
            WorkerDiedError: a worker was killed, or failed with an error that is not the user's.
            ValueError, OSError: as raised by a task.
        """
        for task in tasks:
            worker = self._idle()
            while worker is None:
                yield from self._receive(report)
                worker = self._idle()
            worker.task = task
            try:
                worker.connection.send(task)
            except ConnectionError:
                raise _death(worker) from None
        while any(worker.task is not None for worker in self._workers):
            yield from self._receive(report)

    def _idle(self) -> _Worker | None:
        for worker in self._workers:
            if worker.task is None:
                return worker
        if len(self._workers) == self._processes:
            return None
        context = multiprocessing.get_context("spawn")  # nothing is inherited by accident, on any system
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs,), daemon=True)
        with _without_interrupts():
            process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _receive(self, report: Report) -> Iterator[Any]:
        busy = {worker.connection: worker for worker in self._workers if worker.task is not None}
        for ready in wait(list(busy)):
            assert isinstance(ready, Connection)
            worker = busy[ready]
            try:
                kind, value = ready.recv()
            except (EOFError, ConnectionError):
                raise _death(worker) from None
            if kind == "progress":
                report(value)
                continue
            worker.task = None
            if kind == "failed":
                raise value
            yield value


def _death(worker: _Worker) -> WorkerDiedError:
    worker.process.join()
    code = worker.process.exitcode
    if code is not None and code < 0:
        how = f"was killed by signal {-code} ({signal.Signals(-code).name})"
        advice = "was the memory full? Give the same command again, perhaps with fewer --workers"
    else:
        how, advice = f"ended with exit code {code}", "its error is printed above; give the same command again"
    return WorkerDiedError(
        f"a worker process {how} while it was busy with {worker.task}; {advice}: it goes on from what is done"
    )


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started in here never see Ctrl-C, which reaches the whole terminal: the parent ends its workers.

    Blocked and not ignored, so that one which comes at this moment reaches the parent afterwards.
    """
    resource_tracker.ensure_running()  # else the first start would do this, and unblock the signal for itself
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection) -> None:
    while True:
        try:
            task: Task = connection.recv()
        except (EOFError, ConnectionError):
            return
        progress = _Progress(connection)
        answer = attempt(task, progress.add)
        progress.flush()
        _send(connection, answer)


class _Progress:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._items = 0
        self._sent = monotonic()

    def add(self, items: int) -> None:
        self._items += items
        if monotonic() - self._sent > _REPORT_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._items:
            _send(self._connection, ("progress", self._items))
        self._items, self._sent = 0, monotonic()


def _send(connection: Connection, message: tuple[str, Any]) -> None:
    try:
        connection.send(message)
    except ConnectionError:
        raise SystemExit(1) from None  # the parent is gone
