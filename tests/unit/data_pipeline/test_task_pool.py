"""Worker processes: every result arrives, errors of tasks reach the caller, a dead worker is named."""

import os
import signal
import sys
from pathlib import Path

import pytest

from data_pipeline.task_pool import Report, TaskPool, WorkerDiedError


class Square:
    def __init__(self, number: int) -> None:
        self.number = number

    def __str__(self) -> str:
        return f"square {self.number}"

    def run(self, report: Report) -> int:
        report(1)
        if self.number == 13:
            raise ValueError("thirteen brings bad luck")
        if self.number == 99:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.number**2


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets workers find the task above, which lives in no package."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(Square, "__module__", "test_task_pool")
    monkeypatch.setitem(sys.modules, "test_task_pool", sys.modules[__name__])


@pytest.mark.usefixtures("importable")
def test_a_pool_gives_every_result_and_names_what_went_wrong() -> None:
    done = []
    with TaskPool(2) as pool:
        assert sorted(pool.run(map(Square, range(9)), done.append)) == [number**2 for number in range(9)]
        assert sum(done) == 9
        with pytest.raises(ValueError, match="thirteen brings bad luck"):
            list(pool.run([Square(13)], done.append))
        with pytest.raises(
            WorkerDiedError, match=r"killed by signal 9 \(SIGKILL\) while it was busy with square 99; was the"
        ):
            list(pool.run([Square(99)], done.append))
