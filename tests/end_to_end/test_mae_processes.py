"""One process or two: the same samples, pixels and masks, the same losses, and any may go on with the other's run."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

LONGER = ("--epochs", 6.5, "--evaluate-epochs", 0)  # evaluated after the last step alone
STEPS = 146
WARNING = "warning: not bit-equal to an uninterrupted run from here on:"


def test_the_same_inputs(runs: "Runs", digits: Path, tmp_path: Path) -> None:
    lines = {}
    for processes in (1, 2):
        output = tmp_path / f"digests-{processes}.jsonl"
        words = (output, runs.MAE, *runs.options(digits, tmp_path / f"run-{processes}"))
        script = runs.HERE / "input_digests.py"
        command = runs.launched(script, *words) if processes == 2 else runs.python(script, *words)
        runs.start(command, tmp_path / f"digests-{processes}").wait().expect(0)
        lines[processes] = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["first"], line["rows"]) for line in lines[1]] == [(64 * step, 64) for step in range(runs.STEPS)]
    assert len({line["masks"] for line in lines[1]}) == runs.STEPS
    assert lines[1] == lines[2]


@pytest.fixture(scope="module")
def common(runs: "Runs", digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that was stopped after a while."""
    out = tmp_path_factory.mktemp("common") / "run"
    run = runs.train(digits, out, *LONGER)
    run.wait_until(lambda: runs.last_step(out) >= 20)
    (out / "stop").touch()
    run.wait().expect(0)
    assert runs.last_step(out) <= 30
    return out


@pytest.fixture(scope="module")
def alone(runs: "Runs", digits: Path, common: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, which one process has ended."""
    out = tmp_path_factory.mktemp("alone") / "run"
    shutil.copytree(common, out)
    runs.finish(digits, out, *LONGER)
    return out


def test_two_processes_go_on_with_the_run_of_one_and_one_with_that_of_two(
    runs: "Runs", digits: Path, common: Path, alone: Path, tmp_path: Path
) -> None:
    """On the way a rank of the two is killed, and later the launcher is told to end."""
    out = tmp_path / "run"
    shutil.copytree(common, out)
    start = runs.last_step(out)
    run = runs.train(digits, out, *LONGER, processes=2)
    run.wait_until(lambda: runs.last_step(out) >= 60)
    os.kill(run.rank(1), signal.SIGKILL)
    killed = run.wait()
    assert killed.code != 0
    assert run.is_gone(), f"processes remain: {run.members()}"
    assert f"{WARNING} world 1 -> 2 (samples, pixels and masks stay the same)" in killed.out
    assert runs.read_exit(out)["status"] == "failed"

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
    found, expected = runs.losses(out), runs.losses(alone)
    assert list(found) == list(expected) == list(range(1, STEPS + 1))
    assert [found[step] for step in range(1, start + 1)] == [expected[step] for step in range(1, start + 1)]
    worst = max(expected, key=lambda step: abs(found[step] - expected[step]))
    print(f"the losses differ by at most {abs(found[worst] - expected[worst]):.1e}, after step {worst}")
    assert abs(found[worst] - expected[worst]) <= 1e-5, f"step {worst}: {found[worst]} and {expected[worst]}"
    assert found != expected, "expected sums in another order: were there two processes?"
