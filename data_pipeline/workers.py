"""Processes that fill batches in a recycled ring of shared memory.

Each worker writes rows straight into a slot of the ring, so no pixel is pickled or copied between processes. Workers
are forked from a server process that has imported everything once, and end when their pipe closes: a killed parent
leaves none behind. A worker that keeps its parent waiting is named, with what it is busy with.
"""

import copy
import multiprocessing
import signal
import struct
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from data_pipeline.augment import Views
from data_pipeline.manifest import DatasetError
from data_pipeline.reading import Access
from data_pipeline.ring import START, WAIT, Layout, Note, Ring, Status
from data_pipeline.rows import ROW_DTYPE, FillReport, Part, RowFiller, describe, layout_of
from data_pipeline.task_pool import WorkerDiedError

_HEADER = struct.Struct("<q")
_FEWEST_ROWS = 8
_TASKS_A_WORKER = 4
_SECONDS_TO_END = 10.0


class InlinePool:
    """No processes: a batch is filled when it is waited for."""

    def __init__(self, parts: Sequence[Part], views: Views, seed: int, access: Access, rows: int) -> None:
        self._filler = RowFiller(parts, views, seed, access)
        layout = layout_of(parts, views, rows)
        self.ring = Ring(bytearray(Ring.bytes(1, layout)), 1, layout)
        self.slots = 1
        self._tasks: dict[int, np.ndarray] = {}

    def submit(self, slot: int, rows: np.ndarray) -> None:
        """Ask for a slot to be filled with these rows (dtype `ROW_DTYPE`)."""
        self._tasks[slot] = rows

    def wait(self, slot: int) -> FillReport:
        """Fill the slot."""
        return _fill(self._filler, self.ring, slot, self._tasks.pop(slot), _unwatched)

    def drain(self) -> None:
        """Forget what was asked for and not waited for."""
        self._tasks.clear()

    def close(self) -> None:
        """Nothing to end."""


class WorkerPool:
    """`workers` processes filling `slots` batches of `rows` rows ahead of their use.

    When a slot has been waited for `patience` seconds, and again after twice as long each time, `say` is told which
    worker is slow, and with which sample.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        views: Views,
        seed: int,
        access: Access,
        *,
        rows: int,
        slots: int,
        workers: int,
        say: Callable[[str], None],
        patience: float,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        layout = layout_of(parts, views, rows)
        memory = context.RawArray("B", Ring.bytes(slots, layout))
        notes = context.RawArray("B", Status.bytes(workers))
        self.ring = Ring(memory, slots, layout)
        self.slots = slots
        self._parts = parts
        self._say, self._patience = say, patience
        self._status = Status(notes)
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._queued = [0] * workers  # rows asked of each worker and not yet filled
        self._missing: dict[int, list[int]] = {}  # of each slot the workers of its tasks that are not yet filled
        self._reports: dict[int, FillReport] = {}
        for worker in range(workers):
            self._status.note(worker)(START, 0, 0, 0, perf_counter())
            ours, theirs = context.Pipe()
            arguments = (theirs, (memory, slots, layout), (notes, worker), RowFiller(parts, views, seed, access))
            process = context.Process(target=work, args=arguments, daemon=True)
            process.start()
            theirs.close()  # so that the worker's end closes when the worker ends
            self._pipes.append(ours)
            self._processes.append(process)

    def submit(self, slot: int, rows: np.ndarray) -> None:
        """Ask for a slot to be filled with these rows (dtype `ROW_DTYPE`)."""
        assert slot not in self._missing
        length = max(_FEWEST_ROWS, -(-len(rows) // (_TASKS_A_WORKER * len(self._pipes))))
        self._missing[slot] = []
        self._reports[slot] = FillReport()
        for start in range(0, len(rows), length):
            task = rows[start : start + length]
            worker = min(range(len(self._pipes)), key=self._queued.__getitem__)
            self._queued[worker] += len(task)
            self._missing[slot].append(worker)
            try:
                self._pipes[worker].send_bytes(_HEADER.pack(slot) + task.tobytes())
            except (BrokenPipeError, ConnectionResetError) as error:
                raise self._death(worker) from error

    def wait(self, slot: int) -> FillReport:
        """Block until the slot is filled; what it took, summed over its tasks.

        Raises:
            DatasetError, OSError: as the worker met it.
            WorkerDiedError: a worker died.
        """
        begin = perf_counter()
        limit = self._patience
        while self._missing[slot]:
            self._receive(max(0.0, begin + limit - perf_counter()))
            waited = perf_counter() - begin
            if self._missing[slot] and waited >= limit:
                self._say(f"{self._slowest(slot)}; waiting for {waited:.0f} s")
                limit = 2 * waited
        del self._missing[slot]
        return self._reports.pop(slot)

    def drain(self) -> None:
        """Wait for everything that was asked for, so that no worker writes to a slot any more."""
        for slot in list(self._missing):
            self.wait(slot)

    def close(self) -> None:
        """End the workers; those that are stuck in a read are killed."""
        for pipe in self._pipes:
            pipe.close()
        end = perf_counter() + _SECONDS_TO_END
        for process in self._processes:
            process.join(timeout=max(0.0, end - perf_counter()))
            if process.exitcode is None:
                process.kill()

    def _receive(self, timeout: float) -> None:
        for pipe in wait(self._pipes, timeout):
            assert isinstance(pipe, Connection)
            worker = self._pipes.index(pipe)
            try:
                slot, report, error = pipe.recv()
            except (EOFError, ConnectionResetError) as ended:
                raise self._death(worker) from ended
            if error is not None:
                raise error
            self._queued[worker] -= report.rows
            self._missing[slot].remove(worker)
            self._reports[slot].add(report)

    def _slowest(self, slot: int) -> str:
        """Of the workers that a slot waits for, the one that has been busy with one thing for longest."""
        worker = min(self._missing[slot], key=lambda worker: self._status.of(worker).since)
        doing, pid = self._status.of(worker), self._processes[worker].pid
        seconds = perf_counter() - doing.since
        return f"loader worker {worker} (pid {pid}) has been busy for {seconds:.0f} s {describe(self._parts, doing)}"

    def _death(self, worker: int) -> WorkerDiedError:
        process = self._processes[worker]
        process.join(timeout=1)
        code = process.exitcode
        if code is not None and 0 < code < 255:  # 255: its server is gone too, and with it what it had to say
            why = "its error is printed above"
        else:
            why = (
                "killed from outside, out of memory (see dmesg; fewer --workers need less), or a shard was cut while "
                "it was being read"
            )
        return WorkerDiedError(f"loader worker {worker} (pid {process.pid}) died, exit code {code}: {why}")


Pool = InlinePool | WorkerPool
Tag = TypeVar("Tag")


def open_pool(
    parts: Sequence[Part],
    views: Views,
    seed: int,
    access: Access,
    *,
    rows: int,
    workers: int,
    prefetch: int,
    say: Callable[[str], None] | None = None,
    patience: float = 60.0,
) -> Pool:
    """A pool for batches of `rows` rows, filling `prefetch` of them ahead of their use; `access` to the parts' tars.

    `say` is told of workers that keep a batch waiting for more than `patience` seconds; by default a warning is given.
    """
    if workers == 0:
        return InlinePool(parts, views, seed, access, rows)
    slots, say = prefetch + 1, say or _warn
    return WorkerPool(parts, views, seed, access, rows=rows, slots=slots, workers=workers, say=say, patience=patience)


def run_ahead(
    pool: Pool, jobs: Iterator[tuple[np.ndarray, Tag]], pin_memory: bool
) -> Iterator[tuple[Tag, tuple[Tensor, ...], Tensor, FillReport]]:
    """Fill jobs, which are rows and whatever belongs to them, in order, as many ahead as the ring has slots.

    Yields the job's tag, as tensors of their own its views (for each group rows, copies, height, width, channels) and
    its labels, and what filling took.
    """
    pool.drain()
    pending: list[tuple[int, int, Tag]] = []
    free = list(range(pool.slots))
    while True:
        while free and (job := next(jobs, None)) is not None:
            rows, tag = job
            slot = free.pop()
            pool.submit(slot, rows)
            pending.append((slot, len(rows), tag))
        if not pending:
            return
        slot, count, tag = pending.pop(0)
        report = pool.wait(slot)
        views = tuple(torch.from_numpy(view[slot, :count]).clone() for view in pool.ring.views)
        labels = torch.from_numpy(pool.ring.labels[slot, :count]).clone()
        free.append(slot)
        yield tag, tuple(view.pin_memory() for view in views) if pin_memory else views, labels, report


def work(pipe: Connection, ring: tuple[Any, int, Layout], status: tuple[Any, int], filler: RowFiller) -> None:
    """A worker's life: fill what is asked for until the pipe closes.

    `ring` is its memory, slots and layout; `status` is the memory of it and this worker's number.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # schedulers signal every process; when to end is the parent's decision
    torch.set_num_threads(1)
    shared, note = Ring(*ring), Status(status[0]).note(status[1])
    while True:
        note(WAIT, 0, 0, 0, perf_counter())
        try:
            message = pipe.recv_bytes()
        except (EOFError, ConnectionResetError):
            return
        (slot,) = _HEADER.unpack_from(message)
        task = np.frombuffer(message, ROW_DTYPE, offset=_HEADER.size)
        try:
            answer = (slot, _fill(filler, shared, slot, task, note), None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
            answer = (slot, None, _portable(error))
        try:
            pipe.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


def _fill(filler: RowFiller, ring: Ring, slot: int, rows: np.ndarray, note: Note) -> FillReport:
    return filler.fill(rows, [view[slot] for view in ring.views], ring.labels[slot], note)


def _portable(error: Exception) -> Exception:
    """The error itself where it is the user's and arrives whole in another process, otherwise its text and origin."""
    if isinstance(error, DatasetError | OSError):
        with suppress(Exception):  # an error's own code runs here
            ForkingPickler.dumps(error)
            if str(copy.copy(error)) == str(error):  # made anew from its arguments, as unpickling does
                return error
    return RuntimeError(f"a loader worker failed:\n{''.join(traceback.format_exception(error))}")


def _unwatched(stage: int, dataset: int, shard: int, index: int, since: float) -> None:
    """What a process that works for itself does is nobody's concern."""


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)
