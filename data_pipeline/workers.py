"""Processes that fill batches in a recycled ring of shared memory.

Each worker writes rows straight into a slot of the ring, so no pixel is pickled or copied between processes. Workers
are forked from a server process that has imported everything once, and end when their pipe closes: a killed parent
leaves none behind. While they start, which takes seconds, the parent fills the first batch itself. A worker that keeps
its parent waiting is named, with what it is busy with.
"""

import copy
import multiprocessing
import signal
import struct
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch

from data_pipeline.augment import Views
from data_pipeline.decoded import Decoded
from data_pipeline.manifest import DatasetError
from data_pipeline.reading import Access
from data_pipeline.ring import START, WAIT, Layout, Note, Ring, Status
from data_pipeline.rows import ROW_DTYPE, FillReport, Part, RowFiller, describe, layout_of
from data_pipeline.task_pool import WorkerDiedError

_HEADER = struct.Struct("<qq")  # a task's number and slot
_FEWEST_ROWS = 8
_TASKS_A_WORKER = 4  # of a batch
_MOST_ROWS = 64  # of a task
_ROWS_AHEAD = 256  # that a worker has been given, so that it never waits for a busy parent
_SECONDS_TO_END = 10.0
_STARTED = -1  # what a worker reports first, in place of a task's number


class _Task(NamedTuple):
    slot: int
    rows: np.ndarray


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
        decoded: Decoded | None = None,
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
        self._started: set[int] = set()
        self._tasks: dict[int, _Task] = {}  # those that are not filled yet, by number
        self._next_task = 0
        self._queue: deque[int] = deque()  # those that no worker has yet
        self._given: list[list[int]] = [[] for _ in range(workers)]  # those that each worker has
        self._rows_given = [0] * workers
        self._reports: dict[int, FillReport] = {}
        # What a store sends is not waited for here: a worker that waits is told of, this process would be silent.
        self._own = RowFiller(parts, views, seed, access, decoded) if access.cache is None else None
        ends = []
        for worker in range(workers):
            self._status.note(worker)(START, 0, 0, 0, perf_counter())
            ours, theirs = context.Pipe()
            filler = RowFiller(parts, views, seed, access, decoded)
            arguments = (theirs, (memory, slots, layout), (notes, worker), filler)
            self._processes.append(context.Process(target=work, args=arguments, daemon=True))
            self._pipes.append(ours)
            ends.append(theirs)
        self._failure: Exception | None = None
        self._is_closing = False
        for split in (split for part in parts for split in part.manifest.splits.values()):
            # What is computed once is computed now: it must not change while the thread pickles it.
            _ = split.fingerprint, split.table.samples, split.table.bytes
        # The server of processes answers only when it has imported everything.
        self._starter = threading.Thread(target=self._start, args=(ends,))
        self._starter.start()

    def submit(self, slot: int, rows: np.ndarray) -> None:
        """Ask for a slot to be filled with these rows (dtype `ROW_DTYPE`)."""
        assert slot not in self._reports
        length = min(_MOST_ROWS, max(_FEWEST_ROWS, -(-len(rows) // (_TASKS_A_WORKER * len(self._pipes)))))
        self._reports[slot] = FillReport()
        for start in range(0, len(rows), length):
            self._tasks[self._next_task] = _Task(slot, rows[start : start + length])
            self._queue.append(self._next_task)
            self._next_task += 1
        self._deal()

    def wait(self, slot: int) -> FillReport:
        """Block until the slot is filled; what it took, summed over its tasks.

        Raises:
            DatasetError, OSError: as the worker met it.
            WorkerDiedError: a worker died.
        """
        begin = perf_counter()
        limit = self._patience
        while any(task.slot == slot for task in self._tasks.values()):
            if self._own is not None and self._fill_one(slot):
                continue
            self._receive(max(0.0, begin + limit - perf_counter()))
            waited = perf_counter() - begin
            if waited >= limit and any(task.slot == slot for task in self._tasks.values()):
                self._say(f"{self.busy(slot)}; waiting for {waited:.0f} s")
                limit = 2 * waited
        self._own = None
        return self._reports.pop(slot)

    def busy(self, slot: int | None = None) -> str:
        """Of the workers that a slot, or any, waits for, the one that has been busy with one thing for longest."""
        has_part = [any(slot in (None, self._tasks[number].slot) for number in given) for given in self._given]
        workers = [worker for worker, has in enumerate(has_part) if has] or list(range(len(self._pipes)))
        worker = min(workers, key=lambda worker: self._status.of(worker).since)
        doing, pid = self._status.of(worker), self._processes[worker].pid
        seconds = perf_counter() - doing.since
        return f"loader worker {worker} (pid {pid}) has been busy for {seconds:.0f} s {describe(self._parts, doing)}"

    def drain(self) -> None:
        """Wait for everything that was asked for, so that no worker writes to a slot any more."""
        for slot in list(self._reports):
            self.wait(slot)

    def close(self) -> None:
        """End the workers; those that are stuck in a read are killed."""
        self._is_closing = True
        self._starter.join()
        for pipe in self._pipes:
            pipe.close()
        end = perf_counter() + _SECONDS_TO_END
        for process in self._processes:
            if process.pid is None:  # not started any more
                continue
            process.join(timeout=max(0.0, end - perf_counter()))
            if process.exitcode is None:
                process.kill()

    def _start(self, ends: list[Connection]) -> None:
        """Start the processes; in a thread. `ends` of the pipes are theirs."""
        for process, end in zip(self._processes, ends, strict=True):
            try:
                if not self._is_closing and self._failure is None:
                    process.start()
            except Exception as error:  # noqa: BLE001 - whatever it is, who waits for the worker must hear of it
                self._failure = error
            finally:
                end.close()  # so that the worker's end closes when the worker ends

    def _fill_one(self, slot: int) -> bool:
        """While no worker has started, fill the first batch's next task here. Whether there is more to look for."""
        self._receive(0.0)
        assert self._own is not None
        if self._started:
            self._own = None
            return True
        number = next((number for number in self._queue if self._tasks[number].slot == slot), None)
        if number is None:
            return False
        self._queue.remove(number)
        try:
            report = fill_rows(self._own, self.ring, slot, self._tasks[number].rows, unwatched)
        except Exception as error:
            raise _portable(error) from error
        self._done(number, report)
        return True

    def _deal(self) -> None:
        """Give queued tasks to workers that have started, to the one with the fewest rows first."""
        while self._queue and self._started:
            worker = min(self._started, key=self._rows_given.__getitem__)
            if self._rows_given[worker] >= _ROWS_AHEAD:
                return
            number = self._queue.popleft()
            slot, rows = self._tasks[number]
            self._given[worker].append(number)
            self._rows_given[worker] += len(rows)
            try:
                self._pipes[worker].send_bytes(_HEADER.pack(number, slot) + rows.tobytes())
            except (BrokenPipeError, ConnectionResetError) as error:
                raise self._death(worker) from error

    def _receive(self, timeout: float) -> None:
        for pipe in wait(self._pipes, timeout):
            assert isinstance(pipe, Connection)
            worker = self._pipes.index(pipe)
            try:
                number, report, error = pipe.recv()
            except (EOFError, ConnectionResetError) as ended:
                raise self._death(worker) from ended
            if error is not None:
                raise error
            if number == _STARTED:
                self._started.add(worker)
            else:
                self._given[worker].remove(number)
                self._rows_given[worker] -= report.rows
                self._done(number, report)
        self._deal()

    def _done(self, number: int, report: FillReport) -> None:
        self._reports[self._tasks.pop(number).slot].add(report)

    def _death(self, worker: int) -> Exception:
        if self._failure is not None:
            return self._failure
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


def work(pipe: Connection, ring: tuple[Any, int, Layout], status: tuple[Any, int], filler: RowFiller) -> None:
    """A worker's life: fill what is asked for until the pipe closes.

    `ring` is its memory, slots and layout; `status` is the memory of it and this worker's number.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # schedulers signal every process; when to end is the parent's decision
    torch.set_num_threads(1)
    shared, note = Ring(*ring), Status(status[0]).note(status[1])
    answer: tuple[int, FillReport | None, Exception | None] = (_STARTED, None, None)
    while True:
        note(WAIT, 0, 0, 0, perf_counter())
        try:
            pipe.send(answer)
            message = pipe.recv_bytes()
        except (EOFError, ConnectionResetError, BrokenPipeError):
            return
        number, slot = _HEADER.unpack_from(message)
        task = np.frombuffer(message, ROW_DTYPE, offset=_HEADER.size)
        try:
            answer = (number, fill_rows(filler, shared, slot, task, note), None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
            answer = (number, None, _portable(error))


def fill_rows(filler: RowFiller, ring: Ring, slot: int, rows: np.ndarray, note: Note) -> FillReport:
    """Fill rows (dtype `ROW_DTYPE`) of a slot in this process; raises as `RowFiller.fill`."""
    threads = torch.get_num_threads()
    if threads > 1:  # for one image at a time they wait for each other longer than they work
        torch.set_num_threads(1)
    try:
        with torch.inference_mode():  # some microseconds less for each image
            return filler.fill(rows, [view[slot] for view in ring.views], ring.labels[slot], note)
    finally:
        if threads > 1:
            torch.set_num_threads(threads)


def unwatched(stage: int, dataset: int, shard: int, index: int, since: float) -> None:
    """What a process that works for itself does is nobody's concern: a `Note` that goes nowhere."""


def _portable(error: Exception) -> Exception:
    """The error itself where it is the user's and arrives whole in another process, otherwise its text and origin."""
    if isinstance(error, DatasetError | OSError):
        with suppress(Exception):  # an error's own code runs here
            ForkingPickler.dumps(error)
            if str(copy.copy(error)) == str(error):  # made anew from its arguments, as unpickling does
                return error
    return RuntimeError(f"a loader worker failed:\n{''.join(traceback.format_exception(error))}")
