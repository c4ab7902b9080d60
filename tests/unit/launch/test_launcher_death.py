"""Real processes: a launcher, the training process that it starts, and who adopts that when the launcher is dead."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a parent's death is told by Linux alone")

ELASTIC = {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "LOCAL_RANK": "0"}
ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no"}
RANKED = {"RANK": "0", "LOCAL_RANK": "0"}

# Both write their pids into files of the folder that they are given.
LAUNCHER = """
import os, subprocess, sys
from pathlib import Path
folder, program = Path(sys.argv[1]), sys.argv[2]
(folder / "launcher").write_text(str(os.getpid()))
subprocess.run([sys.executable, "-c", program, str(folder)])
"""
TRAINING = """
import os, signal, sys, time
from pathlib import Path
from launch.launcher_death import end_with_launcher
folder = Path(sys.argv[1])
def save(*_):
    (folder / "saved").write_text("")
    raise SystemExit
signal.signal(signal.SIGTERM, save)
end_with_launcher()
partial = folder / f"partial-{os.getpid()}"
partial.write_text(str(os.getpid()))
partial.rename(folder / "training")
time.sleep(60)
"""
# Calls it only when its launcher is dead and somebody else has become its parent.
LATE = TRAINING.replace(
    "end_with_launcher()\n",
    "launcher = os.getppid()\n"
    "(folder / 'ready').write_text('')\n"
    "while os.getppid() == launcher: time.sleep(0.01)\n"
    "end_with_launcher()\n",
).replace("signal.signal(signal.SIGTERM, save)\n", "")
# Becomes the one who adopts, under a name; kills the launcher; prints how the training process ended.
ADOPTER = """
import ctypes, os, signal, subprocess, sys, time
from pathlib import Path
folder, name, launcher, program = Path(sys.argv[1]), *sys.argv[2:]
libc = ctypes.CDLL(None)
assert libc.prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
assert libc.prctl(15, name.encode(), 0, 0, 0) == 0  # PR_SET_NAME
started = subprocess.Popen([sys.executable, "-c", launcher, str(folder), program])
while not (folder / "ready").exists(): time.sleep(0.01)
started.kill()
started.wait()
while True:
    pid, status = os.waitpid(-1, os.WNOHANG)
    if pid:
        print("ended", os.waitstatus_to_exitcode(status))
        break
    if (folder / "training").exists():
        print("trains")
        os.kill(int((folder / "training").read_text()), signal.SIGKILL)
        break
    time.sleep(0.01)
"""


def environment(more: dict[str, str]) -> dict[str, str]:
    launched = {"TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION", "RANK", "LOCAL_RANK"}
    return {name: value for name, value in os.environ.items() if name not in launched} | more


def wait_for(is_so: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[Callable[[dict[str, str]], int]]:
    """Starts a launcher and its training process, kills the launcher with -9, and gives the other's pid."""
    started: list[int] = []

    def orphan(variables: dict[str, str]) -> int:
        command = [sys.executable, "-c", LAUNCHER, str(tmp_path), TRAINING]
        with subprocess.Popen(command, env=environment(variables)) as launcher:
            wait_for((tmp_path / "training").exists)
            started.append(int((tmp_path / "training").read_text()))
            launcher.kill()
        return started[-1]

    yield orphan
    for pid in started:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("variables", [ELASTIC, ACCELERATE, RANKED], ids=["torchrun", "accelerate", "ranks"])
def test_a_training_process_saves_and_leaves_when_its_launcher_is_killed(
    orphan: Callable[[dict[str, str]], int], tmp_path: Path, variables: dict[str, str]
):
    pid = orphan(variables)
    wait_for(lambda: not is_alive(pid))
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize("variables", [{}, {"RANK": "0"}], ids=["plain", "half"])
def test_a_process_that_no_launcher_started_lives_on(
    orphan: Callable[[dict[str, str]], int], tmp_path: Path, variables: dict[str, str]
):
    pid = orphan(variables)
    time.sleep(0.5)
    assert is_alive(pid)
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("variables", "adopter", "end"),
    [
        (ELASTIC, "tini", "ended -15"),
        (ACCELERATE, "systemd", "ended -15"),
        # A script between torchrun and the rank is no orphanage, and other programs' ranks may belong to init.
        (ELASTIC, "bash", "trains"),
        (RANKED, "tini", "trains"),
        ({}, "tini", "trains"),
    ],
)
def test_a_launcher_that_was_dead_before_is_noticed(tmp_path: Path, variables: dict[str, str], adopter: str, end: str):
    command = [sys.executable, "-c", ADOPTER, str(tmp_path), adopter, LAUNCHER, LATE]
    done = subprocess.run(
        command, env=environment(variables), stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == end


def test_a_launcher_that_dies_during_the_call_is_noticed():
    program = (
        "import os; from launch.launcher_death import end_with_launcher\n"
        "parents = iter([os.getppid(), 1]); os.getppid = lambda: next(parents)\n"
        "end_with_launcher(); print('trains')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(RANKED), stdout=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")


def test_ranks_of_torchrun_end_with_it(tmp_path: Path):
    """torchrun starts its ranks from the thread whose end the kernel tells."""
    script = tmp_path / "train.py"
    script.write_text(TRAINING.replace('"training"', '("training" + os.environ["RANK"])'))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script, tmp_path]
    marks = [tmp_path / f"training{rank}" for rank in range(2)]
    with subprocess.Popen(command, env=environment({}), stderr=subprocess.DEVNULL) as torchrun:
        try:
            wait_for(lambda: all(mark.exists() for mark in marks), 60)
            time.sleep(0.5)
            ranks = [int(mark.read_text()) for mark in marks]
            assert all(is_alive(rank) for rank in ranks)
        finally:
            torchrun.kill()
    wait_for(lambda: not any(is_alive(rank) for rank in ranks))
    assert (tmp_path / "saved").exists()
