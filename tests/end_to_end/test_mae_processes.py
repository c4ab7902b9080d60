"""One process or two: the same samples, pixels and masks, the same losses, and any may go on with the other's run."""

import json
import os
import shutil
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

LONGER = ("--epochs", 6.5, "--evaluate-epochs", 0, "--workers", 0)  # evaluated after the last step alone
STEPS = 146
WARNING = "warning: not bit-equal to an uninterrupted run from here on:"


def digests(runs: "Runs", digits: Path, folder: Path, processes: int) -> list[dict[str, Any]]:
    """What goes into each step."""
    output = folder / "digests.jsonl"
    words = (runs.HERE / "input_digests.py", output, runs.MAE, *runs.options(digits, folder / "run"))
    command = runs.launched(*words, processes=processes) if processes > 1 else runs.python(*words)
    runs.start(command, folder / "log").wait().expect(0)
    return [json.loads(line) for line in output.read_text().splitlines()]


def begin_and_go_on(runs: "Runs", digits: Path, common: Path, alone: Path) -> None:
    """Leaves a run of one process that was stopped after a while, and a copy that one process has ended."""
    run = runs.train(digits, common, *LONGER)
    run.wait_until(lambda: runs.last_step(common) >= 20)
    (common / "stop").touch()
    run.wait().expect(0)
    shutil.copytree(common, alone)
    runs.finish(digits, alone, *LONGER)


class OneProcess(NamedTuple):
    """What one process makes of it."""

    inputs: list[dict[str, Any]]
    common: Path
    alone: Path


@pytest.fixture(scope="module")
def one_process(
    runs: "Runs", digits: Path, side_by_side: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> OneProcess:
    folder = tmp_path_factory.mktemp("one")
    training = side_by_side.submit(begin_and_go_on, runs, digits, folder / "common", folder / "alone")
    inputs = side_by_side.submit(digests, runs, digits, folder, 1).result()
    training.result()
    return OneProcess(inputs, folder / "common", folder / "alone")


def test_the_same_inputs(runs: "Runs", digits: Path, one_process: OneProcess, tmp_path: Path) -> None:
    inputs = one_process.inputs
    assert [(line["first"], line["rows"]) for line in inputs] == [(64 * step, 64) for step in range(runs.STEPS)]
    for varying in ("positions", "samples", "pixels", "masks"):
        assert len({line[varying] for line in inputs}) == runs.STEPS
    assert digests(runs, digits, tmp_path, 2) == inputs


def test_two_processes_go_on_with_the_run_of_one_and_one_with_that_of_two(
    runs: "Runs", digits: Path, one_process: OneProcess, tmp_path: Path
) -> None:
    """On the way a rank of the two is killed, and later the launcher is told to end."""
    out = tmp_path / "run"
    shutil.copytree(one_process.common, out)
    start = runs.last_step(out)
    assert start <= 30
    run = runs.train(digits, out, *LONGER, processes=2)
    run.wait_until(lambda: runs.last_step(out) >= 60)
    lost = run.rank(1)
    os.kill(lost, signal.SIGKILL)
    killed = run.wait()
    assert killed.code != 0
    assert run.is_gone(), f"processes remain: {run.members()}"
    assert f"{WARNING} world 1 -> 2 (samples, pixels and masks stay the same)" in killed.out
    # Although the launcher has told the other to end meanwhile.
    assert runs.read_exit(out)["status"] == "failed"
    assert f"rank 1 (host {socket.gethostname()}, pid {lost}) has ended or stopped" in runs.read_exit(out)["error"]

    run = runs.train(digits, out, *LONGER, processes=2)
    run.wait_until(lambda: runs.last_step(out) >= start + 100)
    run.send(signal.SIGTERM)  # launchers pass it on to their processes, which save and leave
    terminated = run.wait()
    assert run.is_gone(), f"processes remain: {run.members()}"
    assert "going on from" in terminated.out
    assert WARNING not in terminated.out
    step = runs.read_exit(out)["step"]
    assert runs.read_exit(out)["status"] == "preempted"
    assert runs.newest(out).name == f"step-{step:08d}"
    assert start + 100 <= step < STEPS

    finished = runs.finish(digits, out, *LONGER)
    assert f"{WARNING} world 2 -> 1 (samples, pixels and masks stay the same)" in finished.out
    found, expected = runs.losses(out), runs.losses(one_process.alone)
    assert list(found) == list(expected) == list(range(1, STEPS + 1))
    assert [found[step] for step in range(1, start + 1)] == [expected[step] for step in range(1, start + 1)]
    worst = max(expected, key=lambda step: abs(found[step] - expected[step]))
    print(f"the losses differ by at most {abs(found[worst] - expected[worst]):.1e}, after step {worst}")
    assert abs(found[worst] - expected[worst]) <= 1e-5, f"step {worst}: {found[worst]} and {expected[worst]}"
    assert found != expected, "expected sums in another order: were there two processes?"
