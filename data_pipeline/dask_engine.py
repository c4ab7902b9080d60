"""Tasks on a Dask cluster: no more at once than keep its workers busy, each checked to have what decides the bytes."""

import logging
import pickle
import platform
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any

from data_pipeline.task_pool import Report, Task, WorkerDiedError, attempt

if TYPE_CHECKING:
    from distributed import Client, Future

_DECIDING = ("sherd", "numpy", "pillow", "simplejpeg")
"""Packages that decide which bytes are written."""

_TASKS_A_WORKER = 2
"""One to work on, one to go on with at once."""

_LOOK_SECONDS = 5.0

# Tasks are made for processes of their own, where no other thread changes Python's warnings or a library's state: a
# worker of several threads takes one at a time.
_ONE_AT_A_TIME = threading.Lock()


class DaskEngine:
    """The workers of the scheduler at `address` (tcp://host:8786); progress is told as tasks finish.

    A task whose worker dies is given to another one, as often as the scheduler's `allowed-failures` says. Workers may
    come and go; without any for `patience` seconds the run ends. `shared` is a folder that every worker must see.
    """

    def __init__(
        self,
        address: str,
        shared: Path,
        say: Callable[[str], None] = print,
        *,
        timeout: float = 10.0,
        patience: float = 60.0,
    ) -> None:
        if find_spec("distributed") is None:
            raise ValueError(
                "--engine dask needs the package distributed, here and on the cluster: pip install distributed"
            )
        self._address = address
        self._shared = str(shared.absolute())
        self._say = say
        self._timeout = timeout
        self._patience = patience
        self._pause = min(_LOOK_SECONDS, patience)
        self._versions = _installed()
        self._client: Client | None = None
        self._workers = 0
        self._looked = self._seen = float("-inf")

    def __enter__(self) -> "DaskEngine":
        """Raises ValueError: no scheduler answers, or a worker has other versions."""
        self._client = self._connect()
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what goes wrong is told by `_lost`
        try:
            self._check_versions()
        except BaseException:
            self._client.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._client is not None
        self._client.close()  # the scheduler forgets, and so cancels, whatever this client still waits for

    def run(self, tasks: Iterable[Task], report: Report) -> Iterator[Any]:
        """See `Engine.run`."""
        assert self._client is not None
        source, finished = iter(tasks), SimpleQueue()
        running: dict[Future, Task] = {}
        self._seen = time.monotonic()
        try:
            while True:
                self._count_workers()
                # At least one: clusters that grow on demand start without workers.
                room = max(1, _TASKS_A_WORKER * self._workers) - len(running)
                for task in islice(source, max(0, room)):
                    running[self._submit(self._client, task, finished)] = task
                if not running:
                    return
                try:
                    future = finished.get(timeout=self._pause)
                except Empty:
                    continue
                items, result = self._outcome(future, running.pop(future))
                report(items)
                yield result
        finally:
            if running and self._client.status == "running":
                self._client.cancel(list(running), force=True)

    def _connect(self) -> "Client":
        from distributed import Client

        self._wait_for_scheduler()
        try:
            return Client(self._address, timeout=self._timeout, set_as_default=False)
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(f"--scheduler {self._address}: not a Dask scheduler of this version: {error}") from error

    def _wait_for_scheduler(self) -> None:
        # A client that gives up leaves threads behind which complain when Python ends: look before making one.
        from distributed.comm.addressing import get_address_host_port

        try:
            place = get_address_host_port(self._address, strict=True)
        except (ValueError, NotImplementedError) as error:
            raise ValueError(f"--scheduler {self._address}: {error}; expected tcp://host:8786") from None
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                socket.create_connection(place, self._timeout).close()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ValueError(
                        f"--scheduler {self._address}: no scheduler answers in {self._timeout:g} s "
                        f"({error.strerror or error}); start one with: dask scheduler"
                    ) from None
                time.sleep(0.2)
            else:
                return

    def _check_versions(self) -> None:
        assert self._client is not None
        found: Any = self._client.get_versions(check=False, packages=list(_DECIDING))
        for where, there in {"the scheduler": found["scheduler"], **found["workers"]}.items():
            packages = dict(there["packages"])
            packages["python"] = ".".join(packages["python"].split(".")[:2])
            if where == "the scheduler":  # reads what it passes on, but writes nothing
                packages |= {name: self._versions[name] for name in _DECIDING if name != "sherd"}
            complaint = _compare(self._versions, packages)
            if complaint is not None:
                raise ValueError(f"--scheduler {self._address}: {where} {complaint}")

    def _count_workers(self) -> None:
        """How many workers there are, asked now and then; raises when there have been none for too long."""
        assert self._client is not None
        now = time.monotonic()
        if now - self._looked < self._pause and self._workers:
            return
        before = self._workers if self._looked > 0 else None
        self._looked = now
        try:
            threads: Any = self._client.nthreads()
        except OSError as error:
            raise self._lost(str(error)) from error
        self._workers = len(threads)
        start = f"dask worker {self._address} --nworkers auto --nthreads 1"
        if self._workers:
            self._seen = now
            if not before:
                self._say(f"dask: worker processes at {self._address}: {self._workers}, one task at a time each")
        elif now - self._seen > self._patience:
            raise WorkerDiedError(
                f"--scheduler {self._address}: no worker for {self._patience:g} s; start some with: {start}; then give "
                "the same command again: it goes on from what is done"
            )
        elif before is None or before:
            self._say(f"dask: no workers at {self._address}; waits {self._patience:g} s for: {start}")

    def _submit(self, client: "Client", task: Task, finished: "SimpleQueue[Future]") -> "Future":
        # Pickled here, so that the scheduler need not know the task's class.
        name = f"{type(task).__name__}-{uuid.uuid4().hex}"
        future = client.submit(work, pickle.dumps(task), self._versions, self._shared, key=name)
        future.add_done_callback(finished.put)
        return future

    def _outcome(self, future: "Future", task: Task) -> tuple[int, Any]:
        from distributed import CancelledError
        from distributed.scheduler import KilledWorker

        try:
            items, (kind, value) = future.result()
        except KilledWorker as error:
            raise WorkerDiedError(
                f"{error.allowed_failures + 1} Dask workers died while busy with {task}, the last at "
                f"{error.last_worker.address}; was the memory full (its log tells)? Start workers with more, then "
                "give the same command again: it goes on from what is done"
            ) from error
        except (CancelledError, OSError) as error:
            raise self._lost(str(getattr(error, "reason", error))) from error
        except Exception as error:
            raise WorkerDiedError(f"a Dask worker could not begin {task}: {type(error).__name__}: {error}") from error
        if kind == "failed":
            raise value
        if kind == "broken":
            raise WorkerDiedError(f"a Dask worker failed while busy with {task}:\n{value}")
        return items, value

    def _lost(self, reason: str) -> WorkerDiedError:
        return WorkerDiedError(
            f"--scheduler {self._address}: the scheduler is gone ({reason}); start it and its workers, then give the "
            "same command again: it goes on from what is done"
        )


def work(pickled: bytes, versions: Mapping[str, str], shared: str) -> tuple[int, tuple[str, Any]]:
    """What a worker is sent: a task's items done and its outcome, "done", "failed" or "broken" (a traceback).

    Workers that joined after the start are checked here.
    """
    host = socket.gethostname()
    complaint = _compare(versions, _installed())
    if complaint is not None:
        return 0, ("failed", ValueError(f"Dask worker on {host} {complaint}"))
    if not Path(shared).is_dir():
        return 0, (
            "failed",
            ValueError(f"Dask worker on {host}: {shared} is not there; --out must be on a disk that all workers share"),
        )
    done: list[int] = []
    with _ONE_AT_A_TIME:
        try:
            outcome = attempt(pickle.loads(pickled), done.append)  # noqa: S301 - from the scheduler, as is this function
        except Exception:  # noqa: BLE001 - whatever it is, the user must hear of it, with its origin
            outcome = ("broken", f"on {host}: {traceback.format_exc()}")
    return sum(done), outcome


def _installed() -> dict[str, str]:
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in _DECIDING:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _compare(ours: Mapping[str, str], theirs: Mapping[str, str | None]) -> str | None:
    differences = [
        f"{name} {theirs.get(name) or 'missing'} (here {ours.get(name, 'missing')})"
        for name in ("python", *_DECIDING)
        if theirs.get(name) != ours.get(name)
    ]
    if not differences:
        return None
    return (
        f"has other versions: {', '.join(differences)}; they decide which bytes are written: install the same there, "
        "start it again, then give the same command"
    )
