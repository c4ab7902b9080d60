"""Batches filled ahead of their use, by worker processes or by this one, and what their user waits for."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from data_pipeline.augment import Views
from data_pipeline.decoded import Decoded
from data_pipeline.order import Plan
from data_pipeline.reading import Access, Reading
from data_pipeline.ring import Ring, Status
from data_pipeline.rows import FillReport, Part, RowFiller, describe, layout_of
from data_pipeline.workers import WorkerPool, fill_rows


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


class InlinePool:
    """No processes: a batch is filled when it is waited for."""

    def __init__(
        self,
        parts: Sequence[Part],
        views: Views,
        seed: int,
        access: Access,
        *,
        rows: int,
        decoded: Decoded | None = None,
    ) -> None:
        self._filler = RowFiller(parts, views, seed, access, decoded)
        self._parts, self._status = parts, Status(bytearray(Status.bytes(1)))
        self._note = self._status.note(0)
        layout = layout_of(parts, views, rows)
        self.ring = Ring(bytearray(Ring.bytes(1, layout)), 1, layout)
        self.slots = 1
        self._tasks: dict[int, np.ndarray] = {}

    def submit(self, slot: int, rows: np.ndarray) -> None:
        """Ask for a slot to be filled with these rows (dtype `ROW_DTYPE`)."""
        self._tasks[slot] = rows

    def wait(self, slot: int) -> FillReport:
        """Fill the slot."""
        return fill_rows(self._filler, self.ring, slot, self._tasks.pop(slot), self._note)

    def busy(self) -> str:
        """What this process is busy with."""
        return f"this process is busy {describe(self._parts, self._status.of(0))}"

    def drain(self) -> None:
        """Forget what was asked for and not waited for."""
        self._tasks.clear()

    def close(self) -> None:
        """Nothing to end."""


Pool = InlinePool | WorkerPool
Tag = TypeVar("Tag")
Jobs = Iterator[tuple[np.ndarray, Tag]]
"""Rows (dtype `ROW_DTYPE`), and whatever belongs to them."""
Filled = Iterator[tuple[Tag, tuple[Tensor, ...], Tensor, FillReport]]
"""What belongs to a job, its views (for each group rows, copies, height, width, channels), its labels, its report."""
DecodeOnce = Callable[..., Decoded]
"""`decode_all` but for its arguments `readers` and `say`."""


class PooledFilling:
    """Batches of `rows` rows decoded by `workers` processes, `prefetch` of them ahead of their use.

    Args:
        plan: of the order, None for reading from the first sample to the last.
        world: ranks that share the parts.
        workers: 0 decodes in this process.
        pin_memory: hand out page-locked tensors.
        say: is told of workers that keep a batch waiting for more than `patience` seconds; by default a warning is
            given.
        decode_once: decodes what is to be kept in memory, given what makes readers, and `told`; None decodes each time.
        told: of that.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        views: Views,
        seed: int,
        decode_once: DecodeOnce | None = None,
        *,
        plan: Plan | None,
        world: int,
        rows: int,
        workers: int,
        prefetch: int,
        pin_memory: bool = False,
        say: Callable[[str], None] | None = None,
        patience: float = 60.0,
        told: Callable[[str], None] = _warn,
    ) -> None:
        self._reading = Reading(parts, plan, world)
        self._pin_memory = pin_memory
        access = self._reading.access
        decoded = None if decode_once is None else decode_once(lambda: access.readers(parts), say=told)
        # Held for as long as workers look at it: memory that nobody here holds is given to the next ring.
        self._decoded: Decoded | None = decoded
        self._pool: Pool
        if workers == 0:
            self._pool = InlinePool(parts, views, seed, access, rows=rows, decoded=decoded)
        else:
            self._pool = WorkerPool(
                parts,
                views,
                seed,
                access,
                rows=rows,
                slots=prefetch + 1,
                workers=workers,
                say=say or _warn,
                patience=patience,
                decoded=decoded,
            )

    def batches(self, jobs: Jobs[Tag]) -> Filled[Tag]:
        """Fill jobs in their order. What an earlier iteration asked for and did not take is waited for first."""
        return run_ahead(self._pool, self._reading.ahead(jobs), self._pin_memory)

    def busy(self) -> str:
        """What has been going on for longest, for messages; any thread may ask."""
        return self._pool.busy()

    def close(self) -> None:
        """End the processes."""
        self._pool.close()
        self._reading.close()
        self._decoded = None


def run_ahead(pool: Pool, jobs: Jobs[Tag], pin_memory: bool) -> Filled[Tag]:
    """Fill jobs in order, as many ahead as the ring has slots; what is handed out is no part of the ring."""
    pool.drain()
    pending: list[tuple[int, int, Tag]] = []
    free = list(range(pool.slots))
    consumer_seconds = 0.0
    while True:
        begin = perf_counter()
        while free and (job := next(jobs, None)) is not None:
            rows, tag = job
            slot = free.pop()
            pool.submit(slot, rows)
            pending.append((slot, len(rows), tag))
        if not pending:
            return
        slot, count, tag = pending.pop(0)
        ordered = perf_counter()
        report = pool.wait(slot)
        waited = perf_counter()
        views = tuple(_own(view[slot, :count], pin_memory) for view in pool.ring.views)
        labels = torch.from_numpy(pool.ring.labels[slot, :count]).clone()
        free.append(slot)
        end = perf_counter()
        report.order_seconds, report.wait_seconds, report.collate_seconds = (
            ordered - begin,
            waited - ordered,
            end - waited,
        )
        report.consumer_seconds = consumer_seconds
        yield tag, views, labels, report
        consumer_seconds = perf_counter() - end


def _own(rows: np.ndarray, pin_memory: bool) -> Tensor:
    """A copy of rows of the ring: page-locked if asked, with no copy between.

    By numpy, which copies in this thread: torch would share out so little between threads that workers keep waiting.
    """
    shared = torch.from_numpy(rows)
    own = torch.empty(shared.shape, dtype=shared.dtype, pin_memory=pin_memory)
    np.copyto(own.numpy(), rows)
    return own
