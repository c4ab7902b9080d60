"""`doctor.py` on the digits: what it finds well, what it finds wrong, and that it leaves nothing behind."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

NOT_THERE = Path("/proc/sherd")  # where nobody may make a folder


def ask(runs: "Runs", log: Path, data: Path, out: Path, *more: object, code: int = 0, processes: int = 1) -> str:
    """What it prints of the words of a training command, and of its own; nothing of it may go on living."""
    script, words = runs.ROOT / "pretrain/doctor.py", runs.options(data, out, *more)
    command = runs.together(script, *words, processes=processes) if processes > 1 else runs.python(script, *words)
    child = runs.start(command, log)
    finished = child.wait().expect(code)
    assert child.is_gone(), f"processes remain: {child.members()}"
    assert finished.err == ""
    return finished.out


def a_run_that_would_work(runs: "Runs", digits: Path, folder: Path) -> None:
    before, out = runs.contents(digits), folder / "place" / "run"
    out.parent.mkdir()
    said = ask(runs, folder / "log", digits, out, "--report", folder / "report.json")
    assert "the run would work: 0 problems, " in said
    assert "64 = 1 x 64" in said
    assert list(out.parent.iterdir()) == []
    assert runs.contents(digits) == before
    found = json.loads((folder / "report.json").read_text())
    assert (found["works"], found["recipe"], found["processes"]) == (True, "digits", 1)
    verdicts = {one["what"]: one["verdict"] for one in found["findings"]}
    assert {"loader", "reading", "memory", "disk space", "checkpoints", "duration"} <= verdicts.keys()
    assert "problem" not in verdicts.values()
    prognosis = found["prognosis"]
    assert prognosis["steps"] == runs.STEPS
    assert prognosis["hours"] == prognosis["steps"] * max(prognosis["compute"], prognosis["load"]) / 3600
    assert any(line.startswith("step: ") for line in found["said"])


def two_processes_of_a_run_that_does_not_fit(runs: "Runs", digits: Path, folder: Path) -> None:
    plan = ("--nodes", 3, "--gpus", 7, "--hours", 1e-9, "--workers", 0)
    said = ask(runs, folder / "log", digits, folder / "run", *plan, code=1, processes=2)
    assert "for 3 x 7 processes, looked at with 2 on a CPU of " in said
    assert "the same in all 2 processes" in said
    assert "gloo, 2 processes on 1 host: sums of 1.0 MB in " in said
    assert "B/s each way; needed: 3 hosts that reach each other" in said
    assert "2 processes on 1 host: all see it, one made the lock" in said
    assert "64 images for 21 processes; needed: a multiple of 21" in said
    assert "to change: --batch-size 63 or --batch-size 84" in said
    assert "bytes read up to 7 times" in said
    assert "images/s in each process by itself" in said
    assert "over 21 processes: " in said
    assert "problem  duration " in said
    assert said.count("the run would not work: 2 problems, ") == 1


def data_and_folders_that_are_not_there(runs: "Runs", _: Path, folder: Path) -> None:
    said = ask(runs, folder / "log", folder, NOT_THERE, code=1)
    assert "problem  data " in said
    assert f"to change: {folder}: no manifest.json, so this is not a dataset folder; make one with: " in said
    assert "problem  run folder" in said
    assert f"cannot write in {NOT_THERE.parent}: " in said


CASES = (a_run_that_would_work, two_processes_of_a_run_that_does_not_fit, data_and_folders_that_are_not_there)


@pytest.mark.timeout(600)
def test_what_it_says(runs: "Runs", digits: Path, side_by_side: ThreadPoolExecutor, tmp_path: Path) -> None:
    started = []
    for case in CASES:
        (folder := tmp_path / case.__name__).mkdir()
        started.append(side_by_side.submit(case, runs, digits, folder))
    for each in started:
        each.result()
