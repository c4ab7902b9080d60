"""The pods of a JobSet on one machine: the commands of its manifest in namespaces of their own, as containers have.

What Kubernetes does with their exit codes is played after the rules in the manifest. No image is involved: that is
test_dockerfile.py's.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

ROOT = Path(__file__).parents[2]
AGAIN = 75
CONTAINER = """
set -e
ip link set lo up 2>/dev/null || true
hostname "$1"
mount --bind "$2" /etc/hosts
shift 2
exec "$@"
"""


def _missing() -> str | None:
    if os.geteuid() != 0 or sys.platform != "linux":
        return "needs Linux and root: it makes namespaces"
    absent = [program for program in ("unshare", "nsenter", "ip") if shutil.which(program) is None]
    return f"needs {', '.join(absent)}" if absent else None


_MISSING = _missing()
pytestmark = [pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING)), pytest.mark.timeout(900)]


class Pods:
    """The pods of one JobSet, of which only the first start is Kubernetes': see `play`."""

    def __init__(self, runs: "Runs", folder: Path, job: dict[str, Any], network: str) -> None:
        self.runs, self.folder, self.network = runs, folder, network
        self.name = job["metadata"]["name"]
        self.most = job["spec"]["failurePolicy"]["maxRestarts"]
        (replicated,) = job["spec"]["replicatedJobs"]
        spec = replicated["template"]["spec"]
        self.count = spec["completions"]
        assert spec["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [AGAIN]
        (self.container,) = spec["template"]["spec"]["containers"]
        self.hosts = folder / "hosts"
        names = [f"{self.name}-node-0-{pod}" for pod in range(self.count)]
        lines = [f"127.0.0.{2 + pod} {name}.{self.name} {name}\n" for pod, name in enumerate(names)]
        self.hosts.write_text("".join(["127.0.0.1 localhost\n", *lines]))
        self.starts = 0
        self.running: list[Runs.Child] = []

    def start(self) -> None:
        """All pods, with nothing running yet."""
        self.starts += 1
        self.running = [self._start(pod) for pod in range(self.count)]

    def first_process(self, pod: int) -> int:
        """The container's process 1, as this machine numbers it."""
        (pid,) = Path(f"/proc/{self.running[pod].pid}/task/{self.running[pod].pid}/children").read_text().split()
        return int(pid)

    def codes(self) -> list[int]:
        """Wait until all pods have ended."""
        return [child.wait(200).code for child in self.running]

    def said(self, pod: int) -> str:
        return self.running[pod].said()

    def probe(self, pod: int) -> int:
        """What the kubelet runs in the pod."""
        into = ["nsenter", "--target", str(self.first_process(pod)), "--mount", "--uts", "--pid", "--net"]
        words = [*into, *self._words(self.container["livenessProbe"]["exec"]["command"], pod)]
        return subprocess.run(words, check=False, cwd=ROOT, env=self._environment(pod), timeout=60).returncode

    def play(self) -> str:
        """Starts the set again as its rules say, until it is Complete or Failed; which of both."""
        counted = 0
        while True:
            self.start()
            codes = self.codes()
            if not any(codes):
                return "Complete"
            counted += AGAIN not in codes
            if counted > self.most:
                return "Failed"

    def _start(self, pod: int) -> "Runs.Child":
        new = [
            "unshare",
            "--mount",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
        ]
        inside = ["sh", "-c", CONTAINER, "container", f"{self.name}-node-0-{pod}", str(self.hosts)]
        words = ["ip", "netns", "exec", self.network, *new, *inside, *self._words(self.container["command"], pod)]
        return self.runs.Child(words, self.folder / f"pod-{pod}-start-{self.starts}", self._environment(pod))

    def _words(self, words: list[str], pod: int) -> list[str]:
        filled = [
            re.sub(r"\$\$|\$\(JOB_COMPLETION_INDEX\)", lambda at: "$" if at[0] == "$$" else str(pod), word)
            for word in words
        ]
        return [word if not word.endswith(".py") else str(ROOT / word) for word in filled]

    def _environment(self, pod: int) -> dict[str, str]:
        own = {entry["name"]: entry["value"] for entry in self.container["env"]}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "JOB_COMPLETION_INDEX": str(pod), **own}


Make = Callable[..., Pods]


@pytest.fixture
def pods(runs: "Runs", digits: Path, tmp_path: Path) -> Iterator[Make]:
    """Makes the pods of a job by its name and further options of the run, whose folder has that name too."""
    network = f"sherd-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", network], check=True)
    made: list[Pods] = []

    def make(name: str, *more: object) -> Pods:
        own = f"--name {name} --image none --gpus 0 --nodes 2 --runs-claim runs --data-claim data --max-restarts 1"
        where = f"--runs-path {tmp_path} --data-path {digits.parent}"
        script = ["pretrain/mae.py", *runs.options(digits, tmp_path / name, *more)]
        words = runs.python(ROOT / "launch/jobset.py", *own.split(), *where.split(), "--", *script)
        printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        folder = tmp_path / f"{name}-pods"
        folder.mkdir()
        made.append(Pods(runs, folder, yaml.safe_load(printed), network))
        return made[-1]

    yield make
    for pods in made:
        for child in pods.running:
            child.end()
    subprocess.run(["ip", "netns", "delete", network], check=True)


LONGER = ("--epochs", 12, "--evaluate-epochs", 0)


def test_a_job_whose_pods_are_taken_away_ends_as_one_left_alone(runs: "Runs", tmp_path: Path, pods: Make) -> None:
    assert pods("alone", *LONGER).play() == "Complete"
    out = tmp_path / "taken"
    taken = pods("taken", *LONGER)

    taken.start()
    taken.running[0].wait_until(lambda: runs.last_step(out) >= 20)
    os.kill(taken.first_process(1), signal.SIGTERM)  # of the second pod alone, as a drained node does
    assert taken.codes() == [0, AGAIN]
    assert "pod 1: asked to leave: the run saves and stops" in taken.said(1)
    assert runs.read_exit(out)["status"] == "preempted"
    assert runs.read_exit(out)["step"] == runs.last_step(out)

    saved = runs.last_step(out)
    taken.start()
    taken.running[0].wait_until(lambda: runs.last_step(out) >= saved + 30)
    os.kill(taken.first_process(0), signal.SIGKILL)  # with all that is in its container, as a lost node does
    killed, other = taken.codes()
    assert killed not in (0, AGAIN)
    assert other == AGAIN
    assert "it had saved a checkpoint since its start, and can go on" in taken.said(1)

    assert taken.play() == "Complete"
    assert taken.starts == 3
    assert runs.metrics(out) == runs.metrics(tmp_path / "alone")
    assert runs.contents(runs.newest(out)) == runs.contents(runs.newest(tmp_path / "alone"))


def test_a_run_stopped_by_hand_stays_stopped(runs: "Runs", tmp_path: Path, pods: Make) -> None:
    job = pods("stopped", *LONGER)
    job.start()
    job.running[0].wait_until(lambda: runs.last_step(tmp_path / "stopped") >= 10)
    (tmp_path / "stopped/stop").touch()
    assert job.codes() == [0, 0]
    assert "pod 0: the run was asked to stop, not by way of this pod; the next start goes on from" in job.said(0)


def test_a_run_that_fails_again_and_again_is_given_up(pods: Make) -> None:
    job = pods("failing", "--split", "nonsense")
    assert job.play() == "Failed"
    assert job.starts == 2
    assert "pod 0: the run has failed" in job.said(0)


def test_a_pod_that_is_frozen_is_found_dead(runs: "Runs", tmp_path: Path, pods: Make) -> None:
    job = pods("frozen", "--epochs", 60, "--evaluate-epochs", 0)
    job.start()
    job.running[0].wait_until(lambda: runs.last_step(tmp_path / "frozen") >= 5)
    assert job.probe(0) == 0
    job.running[0].send_all(signal.SIGSTOP)
    assert job.probe(0) == 1
    assert job.probe(1) == 0
