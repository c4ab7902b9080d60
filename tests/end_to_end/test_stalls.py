"""A loader that hangs: every process writes down where it is, rank 0 says so, and the others end and name it.

Run as a script it is pretrain/mae.py with signs of life in quicker succession.
"""

import os
import re
import runpy
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain import roll_call

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

PATIENCE = 5


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_loader_that_hangs(runs: "Runs", digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    more = ("--patience-seconds", PATIENCE, "--tracker", "none", "--evaluate-epochs", 0, "--epochs", 400)
    words = runs.options(digits, out, *more)
    run = runs.start(runs.together(Path(__file__), *words), tmp_path / "log")
    run.wait_until(lambda: runs.last_step(out) >= 9 and (out / "checkpoints/latest").exists())
    first, second = children(run.pid)
    loaders = children(second) + [pid for child in children(second) for pid in children(child)]
    for pid in loaders:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    run.wait_until((out / "exit.json").exists)
    assert time.monotonic() - began < 2 * PATIENCE
    for pid in loaders:
        os.kill(pid, signal.SIGCONT)
    ended = run.wait(60).expect(1)
    assert run.is_gone(), f"processes remain: {run.members()}"

    who = [f"rank {rank} (host {socket.gethostname()}, pid {pid})" for rank, pid in enumerate((first, second))]
    lines = [line for line in ended.out.splitlines() if line.startswith("stalled: ")]
    assert lines, ended.out
    told = re.fullmatch(
        r"stalled: no step has ended for [345] s: (.*); the stacks of each process are in (.*)", lines[-1]
    )
    assert told is not None, lines
    worker = r"loader worker 0 \(pid \d+\) has been busy for \d s (with sample \d+ of shard .*, stage \w+|taking up .*)"
    (step,) = set(re.findall(r"at step (\d+)", told[1]))
    expected = rf"{re.escape(who[1])} at step {step} \(read: {worker}\); {re.escape(who[0])} at step {step} \(log\)"
    assert re.fullmatch(expected, told[1]), told[1]
    assert told[2] == str(out / "stalls")
    stalls = {path.name.partition("-")[2]: path.read_text() for path in sorted((out / "stalls").iterdir())}
    assert stalls.keys() == {"rank-0.txt", "rank-1.txt"}
    assert re.search(
        rf"pid {second}\): no step has ended for [345] s: step {step} \(read: {worker}\)\n", stalls["rank-1.txt"]
    )
    assert re.search(r'data_pipeline/workers.py", line \d+ in wait\n', stalls["rank-1.txt"])
    assert re.search(r'pretrain/world.py", line \d+ in mean\n', stalls["rank-0.txt"])

    left = runs.read_exit(out)
    assert (left["status"], left["cause"]) == ("failed", "lost")
    behind = f"{who[1]} at step {step} (read) did not get to step {step} (log)"
    assert left["error"].startswith(f"{behind}: what the others do together cannot go on. The same command goes on ")
    said = sorted(line for line in ended.err.splitlines() if line.startswith("mae.py: "))  # others are torch's
    assert said[0] == f"mae.py: rank 0: {left['error']}"
    assert said[1].startswith(f"mae.py: rank 1: {who[0]} has ended or stopped, or cannot be reached: what ")
    assert len(said) == 2


if __name__ == "__main__":
    roll_call.SECONDS = 0.5
    mae = Path(roll_call.__file__).with_name("mae.py")
    sys.path[0] = str(mae.parent)
    runpy.run_path(str(mae), run_name="__main__")
