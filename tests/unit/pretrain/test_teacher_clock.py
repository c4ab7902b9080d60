"""What counts for a teacher, on a CPU and, with a GPU's marks played by the test, on a GPU."""

from collections.abc import Callable

import pytest
import torch

from pretrain import teacher_clock as module
from pretrain.teacher_clock import TeacherClock


def test_on_a_cpu_what_runs_inside_counts_also_where_it_fails(monkeypatch: pytest.MonkeyPatch):
    now = 0.0

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    def fail(clock: TeacherClock) -> None:
        with clock.counting():
            spend(0.5)
            raise KeyError

    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    clock = TeacherClock(torch.device("cpu"))
    assert clock.seconds() == 0
    with clock.counting():
        spend(3)
    spend(100)
    assert clock.seconds() == 3
    with pytest.raises(KeyError):
        fail(clock)
    spend(100)
    assert clock.seconds() == 3.5


class Timeline:
    """A GPU that works through what it was given only when it is told to."""

    def __init__(self) -> None:
        self.queue: list[Callable[[], None]] = []
        self.now = 0.0

    def mark(self) -> "Mark":
        mark = Mark(self)
        self.queue.append(mark.pass_by)
        return mark

    def work(self, seconds: float) -> None:
        def run() -> None:
            self.now += seconds

        self.queue.append(run)

    def advance(self, entries: int) -> None:
        for run in self.queue[:entries]:
            run()
        del self.queue[:entries]


class Mark:
    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.at: float | None = None

    def pass_by(self) -> None:
        self.at = self._timeline.now

    def query(self) -> bool:
        return self.at is not None

    def elapsed_time(self, other: "Mark") -> float:
        assert self.at is not None
        assert other.at is not None, "a GPU that has not come so far would be waited for"
        return 1000 * (other.at - self.at)


def test_on_a_gpu_its_own_time_counts_once_it_has_passed_and_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    timeline = Timeline()
    monkeypatch.setattr(module, "_mark", timeline.mark)
    clock = TeacherClock(torch.device("cuda"))
    timeline.work(7)
    for seconds in (2, 3):
        with clock.counting():
            timeline.work(seconds)
        timeline.work(20)
    assert clock.seconds() == 0
    timeline.advance(4)  # the work before, and the first span with its marks
    assert clock.seconds() == 2
    timeline.advance(3)  # into the second
    assert clock.seconds() == 2
    timeline.advance(2)
    assert clock.seconds() == clock.seconds() == 5


def test_marks_do_not_pile_up_where_nobody_asks(monkeypatch: pytest.MonkeyPatch):
    timeline = Timeline()
    monkeypatch.setattr(module, "_mark", timeline.mark)
    clock = TeacherClock(torch.device("cuda"))
    for _ in range(50):
        with clock.counting():
            timeline.work(1)
        timeline.advance(3)
    assert len(clock._spans) <= 1
    assert clock.seconds() == 50
