"""Engines: every result arrives, tasks are taken as there is room, and each error names what to do.

A Dask cluster of two processes runs on this machine for it; a Slurm cluster is for tests/soak/test_slurm_sharding.py.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from data_pipeline.config import ShardConfig
from data_pipeline.dask_engine import DaskEngine
from data_pipeline.engines import Share, Shares, open_engine
from data_pipeline.slurm_engine import parse_queue, work
from data_pipeline.task_pool import Report, TaskPool, WorkerDiedError

HERE = Path(__file__).parent


class Misfit(OSError):
    """Pickles, but cannot be unpickled."""

    def __init__(self, place: str, code: int) -> None:
        super().__init__(f"{place} answered {code}")


class Square:
    def __init__(self, number: int, mark: Path = Path()) -> None:
        self.number = number
        self.mark = mark

    def __str__(self) -> str:
        return f"square {self.number}"

    def run(self, report: Report) -> int:
        report(1)
        if self.number == 13:
            raise ValueError("thirteen brings bad luck")
        if self.number == 14:
            raise Misfit("the store", 503)
        if self.number == 15:
            raise RuntimeError("fifteen is nobody's fault")
        if self.number == 99 or (self.number == 98 and not self.mark.exists()):
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        report(1)
        return self.number**2


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets workers find the task above, which lives in no package."""
    monkeypatch.syspath_prepend(str(HERE))
    for kind in (Square, Misfit):
        monkeypatch.setattr(kind, "__module__", "test_engines")
    monkeypatch.setitem(sys.modules, "test_engines", sys.modules[__name__])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Dask:
    """A scheduler, and the processes that were started with it."""

    def __init__(self, logs: Path) -> None:
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self._logs = logs
        self._started: list[subprocess.Popen[bytes]] = []
        self.scheduler = self.start("scheduler", "--host", "127.0.0.1", "--port", self.address.rpartition(":")[2])

    def worker(self, *options: str, path: Path = HERE) -> "subprocess.Popen[bytes]":
        return self.start("worker", self.address, "--nthreads", "1", "--host", "127.0.0.1", *options, path=path)

    def start(self, *words: str, path: Path = HERE) -> "subprocess.Popen[bytes]":
        # The scheduler must not need the task's class; one lost worker is forgiven.
        environment = os.environ | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1", "OMP_NUM_THREADS": "1"}
        if words[0] == "worker":
            environment["PYTHONPATH"] = str(path)
        with open(self._logs / f"{words[0]}-{len(self._started)}.log", "wb") as log:
            program = [sys.executable, "-m", "dask", *words, "--no-dashboard"]
            process = subprocess.Popen(program, env=environment, stdout=log, stderr=log, cwd=self._logs)
        self._started.append(process)
        return process

    def end(self) -> None:
        for process in reversed(self._started):  # workers that find no scheduler any more take long to end
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    dask = Dask(tmp_path_factory.mktemp("dask"))
    dask.worker("--nworkers", "2")
    yield dask
    dask.end()


def nothing(items: int) -> None:
    pass


def test_the_engine_of_a_config_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_engine(ShardConfig("digits", "out", workers=1), tmp_path), TaskPool)
    config = ShardConfig("digits", "out", engine="dask", scheduler="tcp://host:8786")
    assert isinstance(open_engine(config, tmp_path), DaskEngine)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"--engine slurm: sbatch, srun, squeue, scancel not found; give the command on"
    ):
        open_engine(ShardConfig("digits", "out", engine="slurm"), tmp_path)
    for name, engine in (("distributed", config), ("submitit", ShardConfig("digits", "out", engine="slurm"))):
        monkeypatch.setattr(f"data_pipeline.{engine.engine}_engine.find_spec", lambda name: None)
        with pytest.raises(ValueError, match=f"--engine {engine.engine} needs .*: pip install {name}"):
            open_engine(engine, tmp_path)


@pytest.mark.usefixtures("importable")
def test_an_error_that_cannot_be_sent_arrives_as_a_plain_one() -> None:
    with TaskPool(1) as pool, pytest.raises(OSError, match=r"^the store answered 503$"):
        list(pool.run([Square(14)], nothing))


def test_shares_are_spread_and_grow_to_some_minutes() -> None:
    taken = []
    shares = Shares((taken.append(number) or Square(number) for number in range(1000)), limit_seconds=14_400)
    first = shares.take(3)
    assert len(taken) == 24
    assert sorted(task.number for share in first for task in share.tasks) == list(range(24))
    assert [len(share.tasks) for share in first] == [8, 8, 8]
    shares.learn(8, 8.0)
    assert [len(share.tasks) for share in shares.take(2)] == [16, 16]  # not 600 at once
    shares.learn(16, 16 * 60.0)
    shares.give_back(Share(first[0].tasks[5:], losses=1))
    back, *new = shares.take(3)
    assert (len(back.tasks), back.losses) == (3, 1)
    assert [len(share.tasks) for share in new] == [10, 10]  # of a minute each
    assert len(taken) == 76
    assert str(back) == f"{back.tasks[0]} and 2 more"
    assert str(Share(back.tasks[:1])) == str(back.tasks[0])


def test_few_tasks_are_spread_over_all_jobs_and_short_limits_make_short_shares() -> None:
    shares = Shares(map(Square, range(5)), limit_seconds=240)
    assert [len(share.tasks) for share in shares.take(4)] == [2, 1, 1, 1]
    assert shares.take(4) == []
    short = Shares(map(Square, range(50)), limit_seconds=240)
    short.learn(2, 60.0)
    assert [len(share.tasks) for share in short.take(3)] == [2, 2, 2]


def test_a_job_works_until_its_time_is_over_or_a_task_fails(tmp_path: Path) -> None:
    answer = work([Square(2), Square(3)], tmp_path / "progress", seconds=60.0)
    assert (answer.results, answer.error, answer.items) == ([4, 9], None, 4)
    assert work([Square(2), Square(3)], tmp_path / "progress", seconds=0.0).results == [4]
    answer = work([Square(2), Square(13), Square(3)], tmp_path / "progress", seconds=60.0)
    assert answer.results == [4]
    assert str(answer.error) == "thirteen brings bad luck"
    assert answer.items == 3
    with pytest.raises(RuntimeError, match="nobody's fault"):
        work([Square(15)], tmp_path / "progress", seconds=60.0)


def test_a_queue_is_read() -> None:
    assert parse_queue("7_0|RUNNING|None\n7_1|PENDING|ReqNodeNotAvail, UnavailableNodes:n[1-2]\n") == {
        "7_0": ("RUNNING", "None"),
        "7_1": ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n[1-2]"),
    }
    assert parse_queue("") == {}


@pytest.mark.usefixtures("importable")
def test_dask_gives_every_result_and_takes_tasks_as_there_is_room(dask: Dask, tmp_path: Path) -> None:
    taken, said, items = [], [], []
    with DaskEngine(dask.address, tmp_path, said.append) as engine:
        results = engine.run((taken.append(number) or Square(number) for number in range(100, 130)), items.append)
        found = [next(results)]
        assert len(taken) <= 5  # two a worker, and one in the place of that which is done
        assert sorted([*found, *results]) == [number**2 for number in range(100, 130)]
        assert sum(items) == 60
        assert list(engine.run([], items.append)) == []
    assert re.match(r"dask: worker processes at tcp://.*: [12], one task|dask: no workers", said[0])


@pytest.mark.usefixtures("importable")
def test_errors_of_dask_tasks_reach_the_user(dask: Dask, tmp_path: Path) -> None:
    with DaskEngine(dask.address, tmp_path, nothing_said) as engine:
        with pytest.raises(ValueError, match=r"^thirteen brings bad luck$"):
            list(engine.run(map(Square, (1, 2, 13, *range(3, 13))), nothing))
        with pytest.raises(OSError, match=r"^the store answered 503$"):
            list(engine.run([Square(14)], nothing))
        with pytest.raises(WorkerDiedError, match=r"(?s)failed while busy with square 15:\non .*nobody's fault"):
            list(engine.run([Square(15)], nothing))
        assert list(engine.run([Square(7)], nothing)) == [49]
    missing = tmp_path / "missing"
    with (
        DaskEngine(dask.address, missing, nothing_said) as engine,
        pytest.raises(ValueError, match=f"on .*: {missing} is not there; --out must be on a disk that all"),
    ):
        list(engine.run([Square(7)], nothing))


@pytest.mark.usefixtures("importable")
def test_ctrl_c_leaves_no_task_on_the_scheduler(dask: Dask, tmp_path: Path) -> None:
    def tasks() -> Iterator[Square]:
        yield from map(Square, (1, 2, 3))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), DaskEngine(dask.address, tmp_path, nothing_said) as engine:
        list(engine.run(tasks(), nothing))
    with Client(dask.address, set_as_default=False) as client:
        for _ in range(100):
            left: Any = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
            if left == 0:
                break
            time.sleep(0.05)
    assert left == 0


@pytest.mark.usefixtures("importable")
def test_one_lost_dask_worker_is_forgiven_and_two_are_told_of(dask: Dask, tmp_path: Path) -> None:
    with DaskEngine(dask.address, tmp_path, nothing_said) as engine:
        assert sorted(engine.run([Square(98, tmp_path / "mark"), Square(3)], nothing)) == [9, 98**2]
        with pytest.raises(
            WorkerDiedError, match=r"2 Dask workers died while busy with square 99, the last at tcp://.*"
        ):
            list(engine.run([Square(99, tmp_path / "mark")], nothing))


def nothing_said(text: str) -> None:
    pass


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    expected = f"--scheduler {address}: no scheduler answers in 0.3 s .*; start one with: dask scheduler"
    with pytest.raises(ValueError, match=expected), DaskEngine(address, tmp_path, timeout=0.3):
        pass
    for wrong in ("127.0.0.1", "tcp://127.0.0.1", "http://127.0.0.1:80", "tcp://127.0.0.1:dask"):
        with (
            pytest.raises(ValueError, match=f"--scheduler {wrong}: .*; expected tcp://host:8786"),
            DaskEngine(wrong, tmp_path, timeout=0.3),
        ):
            pass


@pytest.mark.usefixtures("importable")
def test_workers_that_are_missing_other_or_lost_with_their_scheduler_are_told_of(tmp_path: Path) -> None:
    dask, said = Dask(tmp_path), []
    try:
        with (
            DaskEngine(dask.address, tmp_path, said.append, patience=0.5) as engine,
            pytest.raises(WorkerDiedError, match=r"no worker for 0\.5 s; start some with: dask worker tcp://"),
        ):
            list(engine.run([Square(7)], nothing))
        start = f"dask worker {dask.address} --nworkers auto --nthreads 1"
        assert said == [f"dask: no workers at {dask.address}; waits 0.5 s for: {start}"]

        other = tmp_path / "sherd-9.9.dist-info/METADATA"
        other.parent.mkdir()
        other.write_text("Metadata-Version: 2.1\nName: sherd\nVersion: 9.9\n")
        (tmp_path / "test_engines.py").write_text((HERE / "test_engines.py").read_text())
        with DaskEngine(dask.address, tmp_path, nothing_said) as engine:
            worker = dask.worker("--no-nanny", path=tmp_path)
            expected = (
                rf"has other versions: sherd 9\.9 \(here {re.escape(version('sherd'))}\); they decide which bytes"
            )
            with pytest.raises(ValueError, match=rf"Dask worker on {re.escape(socket.gethostname())} {expected}"):
                list(engine.run([Square(7)], nothing))
            with (
                pytest.raises(ValueError, match=rf"--scheduler {dask.address}: tcp://127\.0\.0\.1:\d+ {expected}"),
                DaskEngine(dask.address, tmp_path, nothing_said),
            ):
                pass
            worker.terminate()

            def tasks() -> Iterator[Square]:
                dask.scheduler.kill()
                yield Square(7)

            with pytest.raises(
                WorkerDiedError,
                match=f"--scheduler {dask.address}: the scheduler is gone \\(scheduler-connection-lost\\); start it",
            ):
                list(engine.run(tasks(), nothing))
    finally:
        dask.end()
