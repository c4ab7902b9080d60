"""Processes that fill batches in a recycled ring of shared memory.

Each worker writes rows straight into a slot of the ring, so no pixel is pickled or copied between processes. Workers
are forked from a server process that has imported everything once, and end when their pipe closes: a killed parent
leaves none behind.
"""

import multiprocessing
import signal
import struct
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from data_pipeline.augment import View
from data_pipeline.manifest import DatasetError
from data_pipeline.rows import ROW_DTYPE, FillReport, Part, RowFiller
from data_pipeline.task_pool import WorkerDiedError

_HEADER = struct.Struct("<q")
_FEWEST_ROWS = 8
_TASKS_A_WORKER = 4


class Ring:
    """Slots of shared memory, each for one batch: uint8 images (rows, height, width, 3), int64 labels (rows,)."""

    def __init__(self, memory: Any, slots: int, rows: int, size: tuple[int, int]) -> None:
        pixels = slots * rows * size[0] * size[1] * 3
        raw = np.frombuffer(memory, np.uint8)
        self.labels = raw[: slots * rows * 8].view(np.int64).reshape(slots, rows)
        self.images = raw[slots * rows * 8 :][:pixels].reshape(slots, rows, *size, 3)

    @staticmethod
    def bytes(slots: int, rows: int, size: tuple[int, int]) -> int:
        """Bytes such a ring takes."""
        return slots * rows * (8 + size[0] * size[1] * 3)


class InlinePool:
    """No processes: a batch is filled when it is waited for."""

    def __init__(self, parts: Sequence[Part], view: View, seed: int, rows: int) -> None:
        self._filler = RowFiller(parts, view, seed)
        self.ring = Ring(bytearray(Ring.bytes(1, rows, view.size)), 1, rows, view.size)
        self.slots = 1
        self._tasks: dict[int, np.ndarray] = {}

    def submit(self, slot: int, rows: np.ndarray) -> None:
        """Ask for a slot to be filled with these rows (dtype `ROW_DTYPE`)."""
        self._tasks[slot] = rows

    def wait(self, slot: int) -> FillReport:
        """Fill the slot."""
        return self._filler.fill(self._tasks.pop(slot), self.ring.images[slot], self.ring.labels[slot])

    def drain(self) -> None:
        """Forget what was asked for and not waited for."""
        self._tasks.clear()

    def close(self) -> None:
        """Nothing to end."""


class WorkerPool:
    """`workers` processes filling `slots` batches of `rows` rows ahead of their use."""

    def __init__(self, parts: Sequence[Part], view: View, seed: int, *, rows: int, slots: int, workers: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        memory = context.RawArray("B", Ring.bytes(slots, rows, view.size))
        self.ring = Ring(memory, slots, rows, view.size)
        self.slots = slots
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._queued = [0] * workers  # rows asked of each worker and not yet filled
        self._missing: dict[int, int] = {}  # tasks of each slot not yet filled
        self._reports: dict[int, FillReport] = {}
        for _ in range(workers):
            ours, theirs = context.Pipe()
            filler = RowFiller(parts, view, seed)
            process = context.Process(target=work, args=(theirs, memory, (slots, rows, view.size), filler), daemon=True)
            process.start()
            theirs.close()  # so that the worker's end closes when the worker ends
            self._pipes.append(ours)
            self._processes.append(process)

    def submit(self, slot: int, rows: np.ndarray) -> None:
        """Ask for a slot to be filled with these rows (dtype `ROW_DTYPE`)."""
        assert slot not in self._missing
        length = max(_FEWEST_ROWS, -(-len(rows) // (_TASKS_A_WORKER * len(self._pipes))))
        starts = range(0, len(rows), length)
        self._missing[slot] = len(starts)
        self._reports[slot] = FillReport()
        for start in starts:
            task = rows[start : start + length]
            worker = min(range(len(self._pipes)), key=self._queued.__getitem__)
            self._queued[worker] += len(task)
            try:
                self._pipes[worker].send_bytes(_HEADER.pack(slot) + task.tobytes())
            except (BrokenPipeError, ConnectionResetError) as error:
                raise self._death(worker) from error

    def wait(self, slot: int) -> FillReport:
        """Block until the slot is filled; what it took, summed over its tasks.

        Raises:
            DatasetError: as the worker met it.
            WorkerDiedError: a worker died.
        """
        while self._missing[slot]:
            self._receive()
        del self._missing[slot]
        return self._reports.pop(slot)

    def drain(self) -> None:
        """Wait for everything that was asked for, so that no worker writes to a slot any more."""
        for slot in list(self._missing):
            self.wait(slot)

    def close(self) -> None:
        """End the workers."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=10)

    def _receive(self) -> None:
        for pipe in wait(self._pipes):
            assert isinstance(pipe, Connection)
            worker = self._pipes.index(pipe)
            try:
                slot, report, error = pipe.recv()
            except (EOFError, ConnectionResetError) as ended:
                raise self._death(worker) from ended
            if error is not None:
                raise error
            self._queued[worker] -= report.rows
            self._missing[slot] -= 1
            self._reports[slot].add(report)

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


def open_pool(parts: Sequence[Part], view: View, seed: int, *, rows: int, workers: int, prefetch: int) -> Pool:
    """A pool for batches of `rows` rows, filling `prefetch` of them ahead of their use."""
    if workers == 0:
        return InlinePool(parts, view, seed, rows)
    return WorkerPool(parts, view, seed, rows=rows, slots=prefetch + 1, workers=workers)


def run_ahead(
    pool: Pool, jobs: Iterator[tuple[np.ndarray, Tag]], pin_memory: bool
) -> Iterator[tuple[Tag, Tensor, Tensor, FillReport]]:
    """Fill jobs, which are rows and whatever belongs to them, in order, as many ahead as the ring has slots.

    Yields the job's tag, its images and labels as tensors of their own, and what filling took.
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
        images = torch.from_numpy(pool.ring.images[slot, :count]).clone()
        labels = torch.from_numpy(pool.ring.labels[slot, :count]).clone()
        free.append(slot)
        yield tag, images.pin_memory() if pin_memory else images, labels, report


def work(pipe: Connection, memory: Any, shape: tuple[int, int, tuple[int, int]], filler: RowFiller) -> None:
    """A worker's life: fill what is asked for until the pipe closes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # schedulers signal every process; when to end is the parent's decision
    torch.set_num_threads(1)
    ring = Ring(memory, *shape)
    while True:
        try:
            message = pipe.recv_bytes()
        except (EOFError, ConnectionResetError):
            return
        (slot,) = _HEADER.unpack_from(message)
        task = np.frombuffer(message, ROW_DTYPE, offset=_HEADER.size)
        try:
            answer = (slot, filler.fill(task, ring.images[slot], ring.labels[slot]), None)
        except DatasetError as error:
            answer = (slot, None, error)
        except Exception:  # noqa: BLE001 - whatever it is, the parent must hear of it, with its origin
            answer = (slot, None, RuntimeError(f"a loader worker failed:\n{traceback.format_exc()}"))
        try:
            pipe.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return
