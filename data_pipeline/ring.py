"""What a loader's processes share: the slots that batches are written into, and what each worker is busy with."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

_ALIGNMENT = 64  # bytes: a cache line


@dataclass(frozen=True)
class Layout:
    """What a slot holds: `rows` labels, and for each group of views (copies, height, width) an array of pixels."""

    rows: int
    groups: tuple[tuple[int, int, int], ...]
    channels: int
    dtype: str

    @property
    def shapes(self) -> tuple[tuple[int, int, int, int, int], ...]:
        """For each group (rows, copies, height, width, channels)."""
        return tuple((self.rows, *group, self.channels) for group in self.groups)


class Ring:
    """Slots of shared memory, each for one batch.

    labels: int64, (slots, rows). views: for each group of views an array (slots, rows, copies, height, width, channels)
    of the layout's type.
    """

    def __init__(self, memory: Any, slots: int, layout: Layout) -> None:
        raw = np.frombuffer(memory, np.uint8)
        dtype = np.dtype(layout.dtype)
        (labels, *starts), _ = _places(slots, layout)
        self.labels = np.ndarray((slots, layout.rows), np.int64, raw.data, labels)
        self.views = tuple(
            np.ndarray((slots, *shape), dtype, raw.data, start)
            for start, shape in zip(starts, layout.shapes, strict=True)
        )

    @staticmethod
    def bytes(slots: int, layout: Layout) -> int:
        """Bytes such a ring takes."""
        return _places(slots, layout)[1]


def _places(slots: int, layout: Layout) -> tuple[list[int], int]:
    """Where each array begins, that of the labels first, and where the last one ends."""
    starts, end = [], 0
    itemsize = np.dtype(layout.dtype).itemsize
    for values, size in ((layout.rows, 8), *((int(np.prod(shape)), itemsize) for shape in layout.shapes)):
        starts.append(-(-end // _ALIGNMENT) * _ALIGNMENT)
        end = starts[-1] + slots * values * size
    return starts, end


# What a worker can be busy with.
START, WAIT, READ, DECODE = range(4)
STAGES = ("start", "wait", "read", "decode")


class Doing(NamedTuple):
    """A worker's stage, the sample that it concerns, and since when, as `time.perf_counter` counts in all processes."""

    stage: int
    dataset: int
    shard: int
    index: int
    since: float


Note = Callable[[int, int, int, int, float], None]
"""Writes down what a worker is about to do: the fields of a `Doing`."""

_DOING = struct.Struct("<qqqqd")


class Status:
    """What each worker is doing. Written by the workers and read by their parent without a lock.

    A reading that falls into a writing can mix two samples; it is for messages to people only.
    """

    def __init__(self, memory: Any) -> None:
        self._memory = memory

    @staticmethod
    def bytes(workers: int) -> int:
        """Bytes it takes."""
        return workers * _DOING.size

    def note(self, worker: int) -> Note:
        """The function by which this worker says what it does; it takes a fraction of a microsecond."""
        return partial(_DOING.pack_into, self._memory, worker * _DOING.size)

    def of(self, worker: int) -> Doing:
        """What this worker is doing."""
        return Doing(*_DOING.unpack_from(self._memory, worker * _DOING.size))
