"""A step that does not fit the memory: what does is found by trial, named, and true."""

import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

MEGABYTES = 105
"""Beyond what a process has when its first step begins. 128 images at once take about 235, 64 take 140, 32 take 75."""
_SIZES = {
    "encoder.image-size": (32, 32),
    "encoder.patch-size": (4, 4),
    "encoder.width": 96,
    "decoder.width": 96,
    "decoder.depth": 4,
    "decoder.heads": 3,
    "optimizer.warmup-epochs": 0.1,
    "evaluate-epochs": 0,
    "knn.most-train": 64,
    "knn.most-held-out": 64,
    "checkpoint-steps": 1,
    "tracker": "none",
}


def begin(runs: "Runs", digits: Path, out: Path, *more: object, processes: int = 1) -> "Runs.Child":
    """Start a run of larger steps, in which the last process has little memory left."""
    options: list[object] = []
    for name, value in _SIZES.items():
        options += [f"--{name}", *(value if isinstance(value, tuple) else (value,))]
    script = (runs.HERE / "little_memory.py", MEGABYTES, processes - 1)
    words = (*script, runs.MAE, *runs.options(digits, out, *options, *more))
    command = runs.launched(*words, processes=processes) if processes > 1 else runs.python(*words)
    return runs.start(command, out.with_name(f"{out.name}-log-{len(runs.STARTED)}"), cold=True)


def advised(error: str, at_once: int = 128) -> int:
    """The --accumulate that a message names, of a process that has had so many of its 128 images at once."""
    found = re.fullmatch(
        rf"out of memory with {at_once} images at once in each process \(fp32\); tried: with --accumulate (\d+) "
        r"\((\d+) at once\) a step fits, and the result is the same up to the order of float sums\. Give the same "
        r"command with it: the run goes on from its newest checkpoint",
        error,
    )
    assert found is not None, error
    accumulate, fitting = map(int, found.groups())
    assert fitting * accumulate == 128
    assert fitting < at_once
    return accumulate


def alone(runs: "Runs", digits: Path, out: Path) -> None:
    """What the message advises is the least that fits, and runs to its end with no more memory than what failed."""
    options = ("--batch-size", 128, "--epochs", 0.25)

    def failing(*more: object) -> str:
        run = begin(runs, digits, out, *options, *more)
        refused = run.wait().expect(1)
        assert run.is_gone(), f"processes remain: {run.members()}"
        left = runs.read_exit(out)
        assert left["status"] == "failed"
        assert refused.err == f"mae.py: {left['error']}\n"
        return left["error"]

    accumulate = advised(failing())
    assert accumulate >= 4, "expected that more than one was tried"
    assert advised(failing("--accumulate", accumulate // 2), 2 * 128 // accumulate) == accumulate
    run = begin(runs, digits, out, *options, "--accumulate", accumulate)
    run.wait().expect(0)
    assert runs.read_exit(out)["status"] == "done"
    assert list(runs.losses(out)) == [1, 2, 3]


def one_of_two(runs: "Runs", digits: Path, out: Path) -> None:
    """The process that has too little says so, and none waits for it."""
    run = begin(runs, digits, out, "--batch-size", 256, "--epochs", 0.25, processes=2)
    failed = run.wait()
    assert failed.code != 0
    assert run.is_gone(), f"processes remain: {run.members()}"
    (line,) = (line for line in failed.err.splitlines() if line.startswith("mae.py: rank 1: "))
    assert advised(line.removeprefix("mae.py: rank 1: ")) >= 4
    assert runs.read_exit(out)["status"] == "failed"


CASES = [alone, one_of_two]


@pytest.fixture(scope="module")
def outcomes(
    runs: "Runs", digits: Path, side_by_side: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Future[None]]:
    """Both cases at once; each test waits for its own."""
    return {
        case.__name__: side_by_side.submit(case, runs, digits, tmp_path_factory.mktemp(case.__name__) / "run")
        for case in CASES
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_too_little_memory(outcomes: dict[str, Future[None]], case: object) -> None:
    outcomes[case.__name__].result()
