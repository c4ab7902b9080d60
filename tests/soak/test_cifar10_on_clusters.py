"""CIFAR-10 sharded as a Slurm array and on Dask: the bytes of the local run, and killed tasks are done again alone.

Some minutes. Needs Debian's Slurm, and the local copy of CIFAR-10.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

ROOT = Path(__file__).parents[2]
SOURCE = ROOT.parent / "shared/data/cifar10"
ENOUGH = 12  # shards of some fifty, each a task
OPTIONS = ("--source", SOURCE, "--shard-size", 300_000)
pytestmark = [
    pytest.mark.skipif(not SOURCE.is_dir(), reason=f"{SOURCE} is not there"),
    pytest.mark.timeout(1200),
]

Marks = dict[str, tuple[int, int]]


def tars(out: Path) -> Marks:
    """Of each tar that is there its inode and when it was written: another task's would have others."""
    found = {}
    for path in out.glob("*.tar"):
        with suppress(FileNotFoundError):
            found[path.name] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


def start(runs: "Runs", out: Path, *more: object, environment: dict[str, str] | None = None) -> "Runs.Child":
    words = runs.python(ROOT / "data_pipeline/shard.py", *OPTIONS, "--out", out, *more)
    log = out.with_name(f"{out.name}-log-{time.monotonic_ns()}")
    return runs.Child(words, log, environment, cold=True)


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def local(runs: "Runs", tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of the dataset as this machine writes it by itself."""
    out = tmp_path_factory.mktemp("cifar10") / "here"
    start(runs, out, "--workers", 2).wait(600).expect(0)
    return visible(runs, out)


def visible(runs: "Runs", out: Path) -> dict[str, bytes]:
    return {name: content for name, content in runs.contents(out).items() if not name.startswith(".")}


@pytest.fixture(scope="module")
def slurm(load: Callable[[str], ModuleType]) -> Iterator[ModuleType]:
    slurm_cluster = load("slurm_cluster")
    missing = slurm_cluster.missing()
    if missing is not None:
        pytest.skip(missing)
    with slurm_cluster.SlurmCluster() as cluster:
        yield cluster


def test_a_slurm_array_of_which_a_job_was_killed(
    runs: "Runs", slurm: ModuleType, local: dict[str, bytes], tmp_path: Path
) -> None:
    out, options = tmp_path / "there", ("--engine", "slurm", "--slurm.jobs", 2)
    command = start(runs, out, *options, environment=slurm.environment)
    command.wait_until(lambda: len(tars(out)) >= ENOUGH, 400)
    job = next(job.split()[1] for job in slurm.jobs() if job.startswith("RUNNING"))
    done = tars(out)
    for pid in of_job(slurm, job):
        end(pid)
    ended = command.wait(400)
    assert ended.code == 1, ended.out
    assert "it goes on from what is done" in ended.err
    done |= {name: mark for name, mark in tars(out).items() if name not in done}
    again = start(runs, out, *options, environment=slurm.environment).wait(400).expect(0)
    assert "submitted job" in again.out
    assert visible(runs, out) == local
    after = tars(out)
    assert {name: after[name] for name in done} == done, "tasks that were done are not done again"
    assert len(done) < len(after)


def of_job(slurm: ModuleType, job: str) -> list[int]:
    """The processes of a job, which Slurm names in their environment: array and task."""
    array, _, task = job.partition("_")
    marks = (f"\0SLURM_ARRAY_JOB_ID={array}\0".encode(), f"\0SLURM_ARRAY_TASK_ID={task}\0".encode())
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            environment = b"\0" + path.read_bytes()
            if all(mark in environment for mark in marks):
                found.append(int(path.parent.name))
    assert found, f"no process of job {job} is here"
    return found


def test_dask_of_which_a_worker_was_killed(runs: "Runs", local: dict[str, bytes], tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    started: list[subprocess.Popen[bytes]] = []

    def dask(*words: str) -> subprocess.Popen[bytes]:
        with open(tmp_path / f"dask-{len(started)}.log", "wb") as log:
            program = [sys.executable, "-m", "dask", *words, "--no-dashboard"]
            started.append(subprocess.Popen(program, stdout=log, stderr=log, cwd=tmp_path))
        return started[-1]

    try:
        dask("scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2])
        one = ("worker", address, "--nthreads", "1", "--host", "127.0.0.1", "--no-nanny")
        lost = dask(*one)
        dask(*one)
        out = tmp_path / "there"
        command = start(runs, out, "--engine", "dask", "--scheduler", address)
        command.wait_until(lambda: len(tars(out)) >= ENOUGH, 400)
        done = tars(out)
        end(lost.pid)
        command.wait(400).expect(0)
        assert visible(runs, out) == local
        after = tars(out)
        again = [name for name in done if after[name] != done[name]]
        assert len(again) <= 1, "but for the killed one's, whose answer had not arrived"
        assert len(done) < len(after)
    finally:
        for process in reversed(started):
            process.kill()
            process.wait(20)
