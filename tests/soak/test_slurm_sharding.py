"""Sharding's tasks on a real Slurm cluster: whatever happens to its jobs and nodes, the results are the same.

Some minutes, most of them waiting for what Slurm takes its time over (requeueing, time limits). Needs Debian's Slurm.
"""

import datetime
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from data_pipeline.config import SlurmConfig
from data_pipeline.slurm_engine import SlurmEngine
from data_pipeline.task_pool import Report, WorkerDiedError

if TYPE_CHECKING:
    from tests.end_to_end import slurm_cluster as Slurm

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
_SPEC = importlib.util.spec_from_file_location("slurm_cluster", HERE.parent / "end_to_end/slurm_cluster.py")
assert _SPEC is not None
assert _SPEC.loader is not None
slurm_cluster = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(slurm_cluster)

_MISSING = slurm_cluster.missing()
pytestmark = [pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING)), pytest.mark.timeout(600)]


class Square:
    """Two items, after some seconds."""

    def __init__(self, number: int, seconds: float = 0.0) -> None:
        self.number = number
        self.seconds = seconds

    def __str__(self) -> str:
        return f"square {self.number}"

    def run(self, report: Report) -> int:
        time.sleep(self.seconds)
        if self.number == 13:
            raise ValueError("thirteen brings bad luck")
        if self.number == 14:
            raise RuntimeError("fourteen is nobody's fault")
        report(2)
        return self.number**2


CALL = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
from test_slurm_sharding import Square
from data_pipeline.config import SlurmConfig
from data_pipeline.slurm_engine import SlurmEngine
with SlurmEngine(SlurmConfig(jobs=3, minutes=5), Path(sys.argv[1])) as engine:
    print(sorted(engine.run((Square(number, 2.0) for number in range(100, 124)), lambda items: None)))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator["Slurm.SlurmCluster"]:
    with slurm_cluster.SlurmCluster() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def here(cluster: "Slurm.SlurmCluster", monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's commands speak to the cluster; its jobs find the task above, which lives in no package."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setattr(Square, "__module__", "test_slurm_sharding")
    monkeypatch.setitem(sys.modules, "test_slurm_sharding", sys.modules[__name__])


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def say(text: str) -> None:
        with capsys.disabled():
            print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC  {text}", flush=True)

    return say


@pytest.fixture
def later() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Something to be done meanwhile, in a thread; what it raises fails the test."""
    threads, errors = [], []

    def start(action: Callable[[], object]) -> None:
        def guarded() -> None:
            try:
                action()
            except BaseException as error:  # noqa: BLE001 - raised below
                errors.append(error)

        threads.append(threading.Thread(target=guarded))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def squares(numbers: range) -> list[int]:
    return [number**2 for number in numbers]


def test_every_result_arrives_in_waves_of_bounded_size(tmp_path: Path, say: Callable[[str], None]) -> None:
    said, items, taken = [], [], []
    config = SlurmConfig(jobs=3, minutes=5)
    began = time.monotonic()
    with SlurmEngine(config, tmp_path / "slurm", said.append) as engine:
        numbers = (taken.append(number) or Square(number) for number in range(100, 160))
        results = engine.run(numbers, items.append)
        found = [next(results)]
        assert len(taken) == 24  # three jobs of eight; the iterator is not read on before there is room
        found += results
    assert sorted(found) == squares(range(100, 160))
    assert sum(items) == 120
    assert re.fullmatch(r"slurm: submitted job \d+ \(array of 3, named sherd-[0-9a-f]{8}\) with 24 tasks", said[0])
    say(f"60 tasks in {len(said)} arrays: {time.monotonic() - began:.1f} s")


def test_errors_reach_the_user(tmp_path: Path, cluster: "Slurm.SlurmCluster") -> None:
    config = SlurmConfig(jobs=3, minutes=5)
    with (
        pytest.raises(ValueError, match=r"^thirteen brings bad luck$"),
        SlurmEngine(config, tmp_path / "slurm") as engine,
    ):
        list(engine.run((Square(number, 1.0) for number in range(1, 90)), lambda items: None))
    cluster.wait_until(lambda: cluster.jobs() == [])  # the rest was cancelled
    with (
        pytest.raises(
            WorkerDiedError, match=r"(?s)^Slurm job \d+ failed while it was busy with square 14; .*_log.err"
        ) as e,
        SlurmEngine(config, tmp_path / "slurm") as engine,
    ):
        list(engine.run([Square(14)], lambda items: None))
    assert "RuntimeError: fourteen is nobody's fault" in str(e.value)
    with (
        pytest.raises(ValueError, match=r"sbatch refused the jobs: .*[Ii]nvalid partition.*--slurm.partition"),
        SlurmEngine(SlurmConfig(partition="nope"), tmp_path / "slurm") as engine,
    ):
        list(engine.run([Square(1)], lambda items: None))


def test_a_cancelled_job_is_named_with_its_log(
    tmp_path: Path, cluster: "Slurm.SlurmCluster", later: Callable[[Callable[[], object]], None]
) -> None:
    def cancel() -> None:
        cluster.wait_until(lambda: sum(job.startswith("RUNNING") for job in cluster.jobs()) == 2)
        time.sleep(2)
        cluster.ask("scancel", cluster.jobs()[1].split()[1])

    later(cancel)
    expected = (
        r"^Slurm job (\d+_1) \(CANCELLED\) ended without an answer while it was busy with square 101 and 3 more; .*"
    )
    with (
        pytest.raises(WorkerDiedError, match=expected + r"its log is .*/\1_0_log.err .*give the same command again"),
        SlurmEngine(SlurmConfig(jobs=2, minutes=5), tmp_path / "slurm", grace=3.0) as engine,
    ):
        list(engine.run((Square(number, 5.0) for number in range(100, 108)), lambda items: None))
    cluster.wait_until(lambda: cluster.jobs() == [])


def test_lost_nodes_preempted_jobs_and_a_restarted_controller_change_nothing(
    tmp_path: Path,
    cluster: "Slurm.SlurmCluster",
    later: Callable[[Callable[[], object]], None],
    say: Callable[[str], None],
) -> None:
    def trouble() -> None:
        running = lambda: sum(job.startswith("RUNNING") for job in cluster.jobs())  # noqa: E731
        cluster.wait_until(lambda: running() == 6)
        cluster.ask("scontrol", "update", "nodename=n2", "state=down", "reason=test")
        cluster.wait_until(lambda: 0 < running() < 6)
        say(f"n2 lost: {cluster.jobs()}")
        if "down" in cluster.ask("sinfo", "-h", "-n", "n2", "-p", "low", "-o", "%t"):  # else it came back by itself
            cluster.ask("scontrol", "update", "nodename=n2", "state=resume")
        cluster.ask("sbatch", "-p", "high", "-N1", "--nodelist=n1", "--exclusive", "-o", "/dev/null", "--wrap=sleep 5")
        cluster.wait_until(lambda: running() == 1, 60)
        say(f"n1 preempted: {cluster.jobs()}")
        cluster.restart_controller(5)

        # Requeued jobs are held for two minutes, unless told otherwise; one whose end is not complete refuses.
        cluster.wait_until(lambda: all(job.startswith("PENDING") for job in cluster.jobs()), 60)
        while waiting := [job.split()[1] for job in cluster.jobs() if job.startswith("PENDING")]:
            for job in waiting:
                cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now")
            time.sleep(3)
        say(f"all run again: {cluster.jobs()}")

    later(trouble)
    items, said = [], []
    with SlurmEngine(SlurmConfig(jobs=6, minutes=15), tmp_path / "slurm", said.append, grace=5.0) as engine:
        found = sorted(engine.run((Square(number, 4.0) for number in range(100, 136)), items.append))
    assert found == squares(range(100, 136))
    assert sum(items) == 72
    say("; ".join(said))


def test_tasks_of_a_job_lost_for_good_are_handed_out_again(
    tmp_path: Path,
    cluster: "Slurm.SlurmCluster",
    later: Callable[[Callable[[], object]], None],
) -> None:
    def is_idle(node: str) -> bool:
        state = cluster.ask("sinfo", "-h", "-n", node, "-p", "low", "-o", "%t")
        if "down" in state:
            cluster.ask("scontrol", "update", f"nodename={node}", "state=resume")
        return "idle" in state

    # As the test before leaves them the nodes may be on their way back.
    cluster.wait_until(lambda: is_idle("n1") and is_idle("n2"), 60)

    def lose() -> None:
        cluster.wait_until(lambda: sum(job.startswith("RUNNING") for job in cluster.jobs()) == 2)
        job = cluster.jobs()[0].split()[1]
        node = cluster.ask("squeue", "-h", "-j", job, "-o", "%N").strip()
        for job in cluster.jobs():
            cluster.ask("scontrol", "update", f"JobId={job.split()[1]}", "Requeue=0")
        cluster.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    later(lose)
    said = []
    with SlurmEngine(SlurmConfig(jobs=2, minutes=15), tmp_path / "slurm", said.append, grace=2.0) as engine:
        found = sorted(engine.run((Square(number, 3.0) for number in range(100, 106)), lambda items: None))
    assert found == squares(range(100, 106))
    assert re.search(r"slurm: job \d+_\d was lost \(NODE_FAIL\); its tasks are handed out again", "\n".join(said))


def test_a_job_out_of_time_hands_the_rest_of_its_tasks_on(tmp_path: Path, say: Callable[[str], None]) -> None:
    said = []
    with SlurmEngine(SlurmConfig(jobs=1, minutes=1), tmp_path / "slurm", said.append) as engine:
        found = sorted(engine.run((Square(number, 12.0) for number in range(100, 104)), lambda items: None))
    assert found == squares(range(100, 104))
    assert len(said) == 2, said
    say("; ".join(said))


def test_ctrl_c_cancels_and_so_does_the_command_after_a_killed_one(
    tmp_path: Path, cluster: "Slurm.SlurmCluster", say: Callable[[str], None]
) -> None:
    words = [sys.executable, "-c", CALL, str(tmp_path / "slurm")]
    for number in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        cluster.wait_until(lambda: sum(job.startswith("RUNNING") for job in cluster.jobs()) == 3)
        process.send_signal(number)
        process.communicate(timeout=20)
        if number == signal.SIGINT:
            cluster.wait_until(lambda: cluster.jobs() == [])
    assert len(cluster.jobs()) == 3  # of the killed one
    left = {job.split()[1] for job in cluster.jobs()}
    again = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    cluster.wait_until(lambda: not left & {job.split()[1] for job in cluster.jobs()}, 10)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert out.splitlines()[-1] == str(squares(range(100, 124)))
    say(out.splitlines()[0])


def make_images(folder: Path, count: int) -> None:
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
        path = folder / ("train" if number % 5 else "val") / f"class {number % 3}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((80, 64 + number % 7)).save(path, quality=90)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_command_writes_the_same_bytes_on_a_cluster(
    tmp_path: Path, cluster: "Slurm.SlurmCluster", say: Callable[[str], None]
) -> None:
    make_images(tmp_path / "images", 900)
    (tmp_path / "images/train/class 1/1.jpg").write_bytes(b"no image at all")
    shard = [sys.executable, str(ROOT / "data_pipeline/shard.py"), "--source", str(tmp_path / "images")]
    shard += ["--shard-size", "200000"]
    took = {}
    for name, options in {"here": ["--workers", "1"], "there": ["--engine", "slurm", "--slurm.jobs", "4"]}.items():
        began = time.monotonic()
        words = [*shard, "--out", str(tmp_path / name), *options]
        ended = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ, timeout=300)
        assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}\n{cluster.logs()}"
        took[name] = time.monotonic() - began
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert cluster.jobs() == []
    say(f"900 images: {took['here']:.1f} s here, {took['there']:.1f} s as Slurm jobs")
