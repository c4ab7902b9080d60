"""Where sharding's tasks run: in processes of this machine, as jobs of a Slurm cluster, or on a Dask cluster."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from data_pipeline.config import ShardConfig
from data_pipeline.task_pool import Report, Task, TaskPool

_FIRST_TASKS = 8
_MOST_TASKS = 512
_JOB_SECONDS = 600.0


class Engine(Protocol):
    """Works through tasks; use it in a `with`, one `run` after another.

    Tasks must be small when pickled, of an importable class, name paths that are right on every machine, and be
    harmless when run twice: a lost worker's tasks are given to another, and one that was cancelled may still be busy
    for a moment. Of one process's tasks only one runs at a time.
    """

    def __enter__(self) -> "Engine": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """What was started is ended: at once if an exception leaves, such as Ctrl-C."""
        ...

    def run(self, tasks: Iterable[Task], report: Report) -> Iterator[Any]:
        """The tasks' results in any order; tasks are taken as there is room for them, never all at once.

        `report` is called with the number of items done since its last call, in the caller's own thread.

        Raises:
            WorkerDiedError: a worker was lost, or failed with an error that is not the user's; says what to do.
            ValueError, OSError: as raised by a task, or of a cluster that cannot be used.
        """
        ...


def open_engine(config: ShardConfig, work: Path, say: Callable[[str], None] = print) -> Engine:
    """The engine of a config.

    `work`: an existing folder on the disk that all machines share; Slurm's files and logs go into `work/slurm`.
    `say` is told in a line now and then what was started on a cluster.

    Raises:
        ValueError: a package or program of the engine is missing.
    """
    if config.engine == "slurm":
        from data_pipeline.slurm_engine import SlurmEngine

        return SlurmEngine(config.slurm, work / "slurm", say)
    if config.engine == "dask":
        from data_pipeline.dask_engine import DaskEngine

        assert config.scheduler is not None
        return DaskEngine(config.scheduler, work, say)
    return TaskPool(config.processes)


@dataclass(frozen=True)
class Share:
    """The tasks of one job of a cluster, which `losses` earlier jobs were lost with.

    `reported`: items that were told as done and have to be done again.
    """

    tasks: list[Task]
    losses: int = 0
    reported: int = 0

    def __str__(self) -> str:
        more = f" and {len(self.tasks) - 1} more" if len(self.tasks) > 1 else ""
        return f"{self.tasks[0]}{more}"


class Shares:
    """Hands out tasks, taken from their iterator only as they are asked for, spread over as many jobs as there may be.

    The first jobs get at most 8 tasks. Later ones get what takes 10 minutes, or a quarter of a job's time limit if that
    is less, at most twice as many as before, and at most 512.
    """

    def __init__(self, tasks: Iterable[Task], limit_seconds: float) -> None:
        self._source = iter(tasks)
        self._returned: deque[Share] = deque()
        self._seconds = min(_JOB_SECONDS, limit_seconds / 4)
        self._size = _FIRST_TASKS

    def take(self, jobs: int) -> list[Share]:
        """Shares for at most so many jobs, none empty: first what was given back, then new tasks, spread evenly."""
        shares = [self._returned.popleft() for _ in range(min(jobs, len(self._returned)))]
        free = jobs - len(shares)
        tasks = list(islice(self._source, free * self._size))
        return shares + [Share(tasks[start::free]) for start in range(min(free, len(tasks)))]

    def give_back(self, share: Share) -> None:
        """Tasks that another job must have."""
        self._returned.append(share)

    def learn(self, tasks: int, seconds: float) -> None:
        """A job took so long for so many tasks."""
        if tasks:
            fitting = int(self._seconds / max(seconds / tasks, 1e-3))
            self._size = max(1, min(fitting, 2 * self._size, _MOST_TASKS))
