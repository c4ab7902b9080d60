"""Training on a real Slurm cluster of two nodes: whatever ends a job, it goes on by itself, to the same weights.

Some minutes, and as root. Installs Debian's Slurm where there is none.
"""

import datetime
import importlib.util
import json
import os
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs
    from tests.end_to_end import slurm_cluster as Slurm

END_TO_END = Path(__file__).parents[1] / "end_to_end"
_SPEC = importlib.util.spec_from_file_location("slurm_cluster", END_TO_END / "slurm_cluster.py")
assert _SPEC is not None
assert _SPEC.loader is not None
slurm_cluster = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(slurm_cluster)

pytestmark = pytest.mark.timeout(400)

HOLD = """
import sys
from pathlib import Path
sys.path.append({folder!r})
from hold_at import hold_at
sys.path.remove({folder!r})
hold_at({step}, Path({file!r}))
"""
"""Every Python imports a module of the name sitecustomize when it starts: so a run is held that a launcher starts."""


@pytest.fixture(scope="module")
def cluster() -> Iterator["Slurm.SlurmCluster"]:
    if (reason := slurm_cluster.install()) is not None:
        pytest.skip(reason)
    with slurm_cluster.SlurmCluster() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def here(cluster: "Slurm.SlurmCluster", runs: "Runs", monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's commands speak to the cluster; all nodes are there again after the test before."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(runs.ROOT)
    cluster.wait_for_nodes()


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def say(text: str) -> None:
        with capsys.disabled():
            print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC  {text}", flush=True)

    return say


@pytest.fixture(scope="module")
def reference(runs: "Runs", digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes on this machine that nothing disturbed."""
    out = tmp_path_factory.mktemp("reference") / "run"
    runs.finish(digits, out, processes=2)
    return out


class Trained:
    """A run in a job of the cluster, held at step 20 until `release`."""

    def __init__(self, cluster: "Slurm.SlurmCluster", runs: "Runs", digits: Path, folder: Path) -> None:
        self.cluster, self.runs, self.digits = cluster, runs, digits
        self.out = folder / "a run"
        self._released = folder / "released"
        self._hold = folder / "hold"
        self._hold.mkdir()
        content = HOLD.format(folder=str(END_TO_END), step=20, file=str(self._released))
        (self._hold / "sitecustomize.py").write_text(content)
        self.job = ""

    def command(self, *launcher: object, options: tuple[object, ...] = ()) -> list[str]:
        """launch/slurm.py, for a run that needs two nodes."""
        path = ":".join([str(self._hold), *os.environ.get("PYTHONPATH", "").split(":")]).rstrip(":")
        usual = ["--nodes", 2, "--gpus", 0, "--cpus", 1, "--minutes", 30, "--environment"]
        usual += [f"export OMP_NUM_THREADS=1\nexport PYTHONPATH={shlex.quote(path)}"]
        train = ["pretrain/mae.py", *self.runs.options(self.digits, self.out, *options)]
        return self.runs.python(self.runs.ROOT / "launch/slurm.py", *usual, *launcher, "--", *train)

    def start(self, *launcher: object, options: tuple[object, ...] = ()) -> "Runs.Child":
        """Submit it, and follow it as far as step 19."""
        words = self.command(*launcher, options=options)
        child = self.runs.Child(words, self.out.parent / "follow", self.cluster.environment, cold=True)
        child.wait_until(lambda: "submitted job " in child.said())
        found = re.search(r"^submitted job (\d+): ", child.said(), re.MULTILINE)
        assert found is not None
        self.job = found[1]
        return child

    def held(self, child: "Runs.Child") -> None:
        """Return when it is held."""
        child.wait_until(lambda: self.runs.last_step(self.out) == 19)

    def release(self) -> None:
        """Let it go on, now and whenever it starts again."""
        self._released.touch()

    def hurry(self, child: "Runs.Child") -> None:
        """Follow it to the end, without the two minutes for which Slurm lets a job wait before it starts again."""
        poked = 0

        def is_over() -> bool:
            nonlocal poked
            for state, number in (line.split() for line in self.cluster.jobs()):
                poked += state == "PENDING"
                if state == "PENDING" and poked % 20 == 0:
                    self.cluster.hurry(number)
            return child.process.poll() is not None

        self.cluster.wait_until(is_over, 200)

    def record(self, task: str = "") -> dict[str, Any]:
        """What the job remembers of its starts."""
        return json.loads((self.out / "slurm" / f"{self.job}{task}.json").read_text())

    def verdicts(self) -> list[str]:
        """How each start was judged."""
        return [start["verdict"] for start in self.record()["starts"]]

    def restarts(self, task: str = "") -> int:
        """How often the job was queued again, as Slurm counts."""
        found = re.search(r" Restarts=(\d+) ", self.cluster.show(f"{self.job}{task}"))
        assert found is not None
        return int(found[1])

    def processes(self) -> list[int]:
        """The training processes of the job."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"SLURM_JOB_ID={self.job}".encode() in environment and any(v.startswith(b"RANK=") for v in environment):
                found.append(int(folder.name))
        return found


@pytest.fixture
def trained(cluster: "Slurm.SlurmCluster", runs: "Runs", digits: Path, tmp_path: Path) -> Iterator[Trained]:
    trained = Trained(cluster, runs, digits, tmp_path)
    yield trained
    if trained.job and any(line.split()[1].split("_")[0] == trained.job for line in cluster.jobs()):
        cluster.ask("scancel", trained.job)


def test_a_run_on_two_nodes_is_that_of_two_processes_here(trained: Trained, reference: Path) -> None:
    trained.release()
    child = trained.start()
    finished = child.wait(120).expect(0)
    trained.runs.assert_same(trained.out, reference)
    assert trained.verdicts() == ["done"]
    logs = sorted((trained.out / "slurm").glob(f"{trained.job}-0-?.out"))
    assert len(logs) == 2  # one for each node
    assert "[default0]:going" not in logs[0].read_text()
    assert re.search(r"^\[default0\]:starting from scratch$", logs[0].read_text(), re.MULTILINE)
    ranks = sorted((trained.out / "slurm").glob(f"{trained.job}-0-?/*/attempt_0/0/stdout.log"))
    assert "starting from scratch" in ranks[0].read_text()
    assert f"job {trained.job}: the run is done; step 45 of 45" in finished.out
    script = (trained.out / "slurm" / f"{trained.job}.sh").read_text()
    assert script in finished.out
    again = trained.runs.python(trained.runs.ROOT / "launch/slurm.py", "--follow-run", trained.out)
    followed = trained.runs.Child(again, trained.out.parent / "again", trained.cluster.environment, cold=True)
    assert "the run is done" in followed.wait(30).expect(0).out


def test_asked_by_usr1_it_saves_and_goes_on(trained: Trained, reference: Path, say: Callable[[str], None]) -> None:
    child = trained.start()
    trained.held(child)
    trained.cluster.ask("scancel", "-b", "-s", "USR1", trained.job)
    child.wait_until((trained.out / "stop").exists)
    trained.release()
    trained.hurry(child)
    say(child.wait(1).expect(0).out.partition("submitted")[2])
    trained.runs.assert_same(trained.out, reference)
    assert trained.verdicts() == ["requeue", "done"]
    assert trained.restarts() == 1
    assert trained.record()["starts"][0]["why"] == "the run was asked to stop, and has saved step 20"


def test_preempted_by_a_job_of_more_priority_it_goes_on(
    trained: Trained, reference: Path, say: Callable[[str], None]
) -> None:
    child = trained.start()
    trained.held(child)
    words = ["sbatch", "-p", "high", "-N1", "--nodelist=n1", "--exclusive", "-o", "/dev/null", "--wrap=sleep 3"]
    trained.cluster.ask(*words)
    trained.cluster.wait_until(lambda: f"RUNNING {trained.job}" not in trained.cluster.jobs())
    trained.release()
    trained.hurry(child)
    say(child.wait(1).expect(0).out.partition("submitted")[2])
    trained.runs.assert_same(trained.out, reference)
    assert trained.verdicts() == ["left", "done"]
    assert trained.restarts() == 1


def test_preempted_with_a_time_of_grace_it_goes_on(trained: Trained, reference: Path) -> None:
    """Slurm then ends the step alone, and would take the job for done."""
    trained.cluster.ask("scontrol", "update", "partitionname=low", "gracetime=20")
    try:
        child = trained.start()
        trained.held(child)
        words = ["sbatch", "-p", "high", "-N1", "--nodelist=n1", "--exclusive", "-o", "/dev/null", "--wrap=sleep 3"]
        trained.cluster.ask(*words)
        trained.cluster.wait_until(lambda: "PreemptTime=2" in trained.cluster.show(trained.job))
        trained.release()
        trained.hurry(child)
    finally:
        trained.cluster.ask("scontrol", "update", "partitionname=low", "gracetime=0")
    child.wait(1).expect(0)
    trained.runs.assert_same(trained.out, reference)
    assert trained.verdicts() == ["requeue", "done"]
    assert trained.restarts() == 1
    assert trained.record()["starts"][0]["why"].startswith("the run is preempted, and has saved step ")


def test_a_lost_node_costs_nothing_but_time(trained: Trained, reference: Path, say: Callable[[str], None]) -> None:
    child = trained.start()
    trained.held(child)
    trained.cluster.ask("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    trained.cluster.wait_until(lambda: f"RUNNING {trained.job}" not in trained.cluster.jobs())
    trained.release()
    trained.cluster.wait_for_nodes()
    trained.hurry(child)
    say(child.wait(1).expect(0).out.partition("submitted")[2])
    trained.runs.assert_same(trained.out, reference)
    assert trained.verdicts() == ["left", "done"]
    assert trained.restarts() == 1


def test_killed_without_a_word_it_goes_on_from_its_checkpoint(trained: Trained, reference: Path) -> None:
    child = trained.start()
    trained.held(child)
    for pid in trained.processes():
        os.kill(pid, signal.SIGKILL)
    trained.cluster.wait_until(lambda: len(trained.verdicts()) == 1 and trained.verdicts() != [None], 60)
    trained.release()
    trained.hurry(child)
    child.wait(1).expect(0)
    trained.runs.assert_same(trained.out, reference)
    assert trained.verdicts() == ["requeue", "done"]
    assert trained.restarts() == 1
    assert "was ended without a word" in trained.record()["starts"][0]["why"]


def test_starts_in_vain_come_to_an_end(trained: Trained) -> None:
    child = trained.start("--most-vain-starts", 2, options=("--checkpoint-steps", 100))
    trained.held(child)
    killed: set[int] = set()

    def is_killed_twice() -> bool:
        if trained.runs.last_step(trained.out) == 19:
            for pid in set(trained.processes()) - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        if any(line.startswith("PENDING ") for line in trained.cluster.jobs()):
            trained.cluster.hurry(trained.job)
        return child.process.poll() is not None

    trained.cluster.wait_until(is_killed_twice, 120)
    finished = child.wait(1).expect(1)
    assert "given up: 2 starts in a row have saved no checkpoint" in finished.out
    assert trained.verdicts() == ["requeue", "failed"]
    assert trained.cluster.jobs() == []


def test_an_error_of_the_user_s_ends_the_job(trained: Trained) -> None:
    finished = trained.start(options=("--held-out", "nothing", "--split", "nowhere")).wait(120).expect(1)
    assert trained.verdicts() == ["failed"]
    assert re.search(r"job \d+: the run has failed: .*nowhere", finished.out)
    trained.cluster.wait_until(lambda: trained.cluster.jobs() == [])


def test_the_file_stop_ends_the_job_and_a_second_one_is_refused_before(trained: Trained, reference: Path) -> None:
    child = trained.start()
    trained.held(child)
    second = trained.runs.Child(
        trained.command(), trained.out.parent / "second", trained.cluster.environment, cold=True
    )
    assert f"job {trained.job} is in the queue for it (RUNNING)" in second.wait(30).expect(2).err
    child.send(signal.SIGINT)
    said = child.wait(30).expect(130).out
    assert f"job {trained.job} goes on." in said
    stop = re.search(r"^Save and end it: touch (.*)$", said, re.MULTILINE)
    assert stop is not None
    Path(*shlex.split(stop[1])).touch()
    trained.release()
    trained.cluster.wait_until(lambda: trained.cluster.jobs() == [], 60)
    assert trained.verdicts() == ["stopped"]
    assert trained.start().wait(120).expect(0).out
    trained.runs.assert_same(trained.out, reference)


def test_it_is_asked_before_its_time_is_up(trained: Trained, reference: Path, say: Callable[[str], None]) -> None:
    child = trained.start("--minutes", 2, "--notice-seconds", 30)
    trained.held(child)
    child.wait_until((trained.out / "stop").exists, 150)
    trained.release()
    trained.hurry(child)
    say(child.wait(1).expect(0).out.partition("submitted")[2])
    trained.runs.assert_same(trained.out, reference)
    assert trained.verdicts() == ["requeue", "done"]
    assert trained.restarts() == 1


def test_each_seed_is_a_job_of_an_array_and_goes_on_by_itself(
    trained: Trained, digits: Path, runs: "Runs", tmp_path: Path
) -> None:
    child = trained.start("--nodes", 1, "--seeds", 0, 3)
    folders = [trained.out / f"seed-{seed}" for seed in (0, 3)]
    child.wait_until(lambda: all(runs.last_step(folder) == 19 for folder in folders))
    trained.cluster.ask("scancel", "-b", "-s", "USR1", f"{trained.job}_1")
    child.wait_until((folders[1] / "stop").exists)
    trained.release()
    trained.hurry(child)
    finished = child.wait(1).expect(0)
    for index, (folder, seed) in enumerate(zip(folders, (0, 3), strict=True)):
        alone = tmp_path / f"alone-{seed}"
        runs.finish(digits, alone, "--seed", seed)
        runs.assert_same(folder, alone)
        verdicts = [start["verdict"] for start in trained.record(f"_{index}")["starts"]]
        assert verdicts == ["requeue"] * index + ["done"]
        assert trained.restarts(f"_{index}") == index
        assert f"job {trained.job}_{index} (seed-{seed}): the run is done; step 45 of 45" in finished.out
