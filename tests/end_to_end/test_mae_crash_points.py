"""A run that dies at every point of its work, one after another, ends as one that was left alone, bit for bit."""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

Crash = tuple[str, int, *tuple[int, ...]]

# Each run dies at the first of its points, is started again, dies at the next, and so on, until it is left to end. A
# crash is a point, how often it is reached before the process dies there, and what the newest checkpoint must then be,
# with 7 steps between checkpoints and an evaluation after steps 23 and 45. Where two are given a thread may still have
# been writing the newer one.
CHAINS: dict[str, list[Crash]] = {
    "around one checkpoint": [
        ("copy-half-taken", 3, 7),  # of weights, then of moments: in the second checkpoint
        ("writing-begun", 1, 7),
        ("checkpoint-half-written", 1, 7),  # two files each
        ("checkpoint-written", 1, 7),
        ("checkpoint-renamed", 1, 7),
        ("latest-moved", 1, 14),
    ],
    "between checkpoints": [
        ("pruning", 2, 28),
        ("line-torn", 3, 28),
        ("line-whole", 7, 28),  # the line of a step whose checkpoint does not exist yet
        ("before-export", 1, 45),
    ],
    "around an evaluation": [
        ("evaluation", 1, 21, 14),
        ("line-torn", 3, 21, 14),  # from step 21 on the line of the first evaluation
        ("lines-being-cut", 1, 21, 14),
        ("evaluation", 2, 45),  # between the last checkpoint and the evaluation that follows it
        ("during-export", 1, 45),
        ("before-exit", 1, 45),
    ],
    # Of a run that had ended, and whose encoder is written anew.
    "once ended": [("during-export", 1, 45)],
}


def crash(runs: "Runs", words: list[str], out: Path, undisturbed: Path, at: Crash) -> None:
    point, count, *steps = at
    child = runs.start(runs.python(runs.HERE / "crash_at.py", point, count, runs.MAE, *words), out.parent / point)
    child.wait().expect(-9)
    assert child.is_gone(), f"{at}: processes remain: {child.members()}"
    newest = runs.newest(out)
    assert newest.name in {f"step-{step:08d}" for step in steps}, at
    same = undisturbed / "checkpoints" / newest.name
    assert runs.contents(newest) == runs.contents(same), at
    assert not (out / "exit.json").exists(), at


def chain(runs: "Runs", data: Path, out: Path, undisturbed: Path, name: str) -> None:
    words = runs.options(data, out, "--keep-checkpoints", 2)
    if name == "once ended":
        shutil.copytree(undisturbed, out)
    for at in CHAINS[name]:
        crash(runs, words, out, undisturbed, at)
    last = runs.newest(out)
    resumed = runs.finish(data, out, "--keep-checkpoints", 2)
    assert f"going on from {last}, step {CHAINS[name][-1][2]}" in resumed.out
    assert resumed.err == ""
    runs.assert_same(out, undisturbed)
    if name != "once ended":
        kept = sorted(path.name for path in (out / "checkpoints").iterdir())
        assert kept == ["latest", "step-00000042", "step-00000045"]


@pytest.fixture(scope="module")
def outcomes(
    runs: "Runs",
    digits: Path,
    undisturbed: Path,
    side_by_side: ThreadPoolExecutor,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Future[None]]:
    """All chains, some at a time; each test waits for its own."""
    return {
        name: side_by_side.submit(chain, runs, digits, tmp_path_factory.mktemp("crash") / "run", undisturbed, name)
        for name in CHAINS
    }


@pytest.mark.parametrize("name", CHAINS)
def test_crashes(outcomes: dict[str, Future[None]], name: str) -> None:
    outcomes[name].result()
