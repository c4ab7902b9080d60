"""Batches one ahead of their use: which they are, when they are asked for, and how long that was waited for."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipeline.stream import Batch, Stream
from pretrain import ahead as module
from pretrain.ahead import Ahead, Taken

CPU = torch.device("cpu")
SIZE = 4


class Counted(Stream):
    """Batches whose positions end at these places; `before` is called while each is waited for, and at the end."""

    def __init__(self, stops: list[int], before: Callable[[], object] = lambda: None) -> None:
        self._stops = stops
        self._before = before
        self._at = 0

    @property
    def position(self) -> int:
        return self._at

    @property
    def batch_size(self) -> int:
        return SIZE

    def __iter__(self) -> Iterator[Batch]:
        for stop in self._stops:
            self._before()
            self._at = stop
            rows = np.arange(stop - SIZE, stop)
            images = torch.from_numpy(rows).to(torch.uint8).reshape(SIZE, 1, 1, 1, 1)
            yield Batch((images,), torch.zeros(SIZE, dtype=torch.int64), rows, rows, rows, rows)
        self._before()


def pixels_of(batch: Batch) -> tuple[Tensor, ...]:
    return (batch.images,)


def values(taken: Taken | None) -> list[int]:
    assert taken is not None
    assert taken.batch.positions.tolist() == taken.inputs[0].flatten().tolist()
    return taken.inputs[0].flatten().tolist()


def test_each_batch_is_taken_with_its_own_positions_though_the_stream_is_further():
    """Between the second and the third some are left out."""
    stream = Counted([4, 8, 20])
    ahead = Ahead(stream, pixels_of, CPU)
    ahead.fetch()
    found = []
    while (taken := ahead.take()) is not None:
        ahead.fetch()  # as the loop does, while the step of the one taken is on its way
        found.append((values(taken), taken.start, taken.stop, stream.position))
    assert found == [
        ([0, 1, 2, 3], 0, 4, 8),
        ([4, 5, 6, 7], 4, 8, 20),
        ([16, 17, 18, 19], 16, 20, 20),
    ]


def test_what_is_fetched_is_taken_once():
    ahead = Ahead(Counted([4]), pixels_of, CPU)
    assert ahead.take() is None
    ahead.fetch()
    assert values(ahead.take()) == [0, 1, 2, 3]
    assert ahead.take() is None
    for _ in range(2):  # at the end, and after it
        ahead.fetch()
        assert ahead.take() is None


def test_inputs_are_made_when_a_batch_is_fetched_and_without_gradients():
    made: list[bool] = []

    def inputs(batch: Batch) -> tuple[Tensor, ...]:
        made.append(torch.is_grad_enabled())
        return (batch.images,)

    ahead = Ahead(Counted([4, 8]), inputs, CPU)
    assert made == []
    ahead.fetch()
    assert made == [False]
    ahead.take()
    assert made == [False]
    ahead.fetch()
    assert made == [False, False]
    assert torch.is_grad_enabled()


def test_only_the_stream_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    now = 0.0

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    def inputs(batch: Batch) -> tuple[Tensor, ...]:
        spend(10)
        return (batch.images,)

    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    ahead = Ahead(Counted([4, 8], before=lambda: spend(3)), inputs, CPU)
    waited = []
    for _ in range(3):
        ahead.fetch()
        waited.append(ahead.waited)
        spend(100)
        ahead.take()
    assert waited == [3, 6, 9]  # the end is waited for as well
