"""`validate.py` on the digits: the run's own figures, the same bits on any number of processes, and comparisons."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

TINY = ("--encoder.image-size", 8, 8, "--encoder.patch-size", 2, 2, "--encoder.width", 48, "--encoder.depth", 2)
TINY += ("--encoder.heads", 3, "--epochs", 2, "--batch-size", 60, "--optimizer.warmup-epochs", 0.5, "--workers", 1)
TINY += ("--optimizer.base-lr", 5e-3, "--evaluate-epochs", 0)
WRITTEN = {"evaluation.json", "predictions.parquet", "reliability.png", "confusion.png"}


class Scene(NamedTuple):
    """A dataset, a run trained on it, and an evaluation of that run on one process."""

    data: Path
    run: Path
    out: Path
    said: str


def start(runs: "Runs", log: Path, *words: object, processes: int = 1) -> "Runs.Child":
    script = runs.ROOT / "finetune/validate.py"
    launch = runs.launched if processes == 2 else runs.together
    command = launch(script, *words, processes=processes) if processes > 1 else runs.python(script, *words)
    return runs.start(command, log)


def evaluate(runs: "Runs", data: Path, run: Path, out: Path, *more: object, processes: int = 1) -> "Runs.Finished":
    words = ("--model", run, "--data", data, "--out", out, "--workers", 1, *more)
    child = start(runs, out.with_name(f"{out.name}-log"), *words, processes=processes)
    finished = child.wait().expect(0)
    assert child.is_gone(), f"processes remain: {child.members()}"
    return finished


@pytest.fixture(scope="module")
def scene(runs: "Runs", digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("validated")
    run, out = folder / "run", folder / "out"
    words = (runs.ROOT / "finetune/classify.py", "digits", "--data", digits, "--init", "none", "--out", run, *TINY)
    runs.start(runs.python(*words), folder / "train", cold=True).wait().expect(0)
    return Scene(digits, run, out, evaluate(runs, digits, run, out).out)


def a_run_s_own_figures(runs: "Runs", scene: Scene, folder: Path) -> None:
    found, own = (json.loads((path / "evaluation.json").read_text()) for path in (scene.out, scene.run))
    shared = own.keys() - {"step", "model"}
    assert {"top1", "nll", "ece", "intervals", "calibration", "confusion"} < shared
    assert {name: found[name] for name in shared} == {name: own[name] for name in shared}
    assert found["top1"] > 0.2
    assert found["preparation"]["by"] == "sherd"
    predictions = (path / "predictions.parquet" for path in (scene.out, scene.run))
    assert len({path.read_bytes() for path in predictions}) == 1
    assert {path.name for path in scene.out.iterdir()} == WRITTEN
    low, high = found["intervals"]["top1"]
    assert f"\ntop-1              {found['top1']:.2%}  {low:.2%} to {high:.2%}\n" in scene.said
    assert f"360 images of {scene.data} [test], each once\n" in scene.said


def the_same_bits_on_two_processes_in_a_folder_written_before(runs: "Runs", scene: Scene, folder: Path) -> None:
    out = folder / "out"
    shutil.copytree(scene.out, out)
    (out / "confusion.png").write_bytes(b"of an earlier day")
    evaluate(runs, scene.data, scene.run / "model", out, "--workers", 0, processes=2)
    found, expected = runs.contents(out), runs.contents(scene.out)
    results = [json.loads(files.pop("evaluation.json")) for files in (found, expected)]
    assert [Path(result.pop("model")).name for result in results] == ["model", "run"], "as the user gave it"
    assert results[0] == results[1]
    assert found == expected


def the_same_bits_on_three_processes(runs: "Runs", scene: Scene, folder: Path) -> None:
    evaluate(runs, scene.data, scene.run, folder / "out", "--workers", 0, processes=3)
    assert runs.contents(folder / "out") == runs.contents(scene.out)


def a_run_and_its_evaluation_compared(runs: "Runs", scene: Scene, folder: Path) -> None:
    words = ("--compare", scene.run, scene.out / "predictions.parquet", "--out", folder / "out")
    said = start(runs, folder / "log", *words).wait().expect(0).out
    result = json.loads((folder / "out/comparison.json").read_text())
    (pair,) = result["pairs"]
    assert (result["images"], pair["difference"], pair["p"]) == (360, 0, 1)
    assert f"\n{scene.run} and {scene.out / 'predictions.parquet'} are right of the very same images.\n" in said


def a_folder_of_something_else(runs: "Runs", scene: Scene, folder: Path) -> None:
    before = runs.contents(scene.run)
    words = ("--model", scene.run, "--data", scene.data, "--out", scene.run)
    said = start(runs, folder / "log", *words).wait().expect(1).err
    assert said.startswith(
        f"validate.py: --out {scene.run}: expected a new folder or one that this command has written"
    )
    assert said.count("\n") == 1
    assert runs.contents(scene.run) == before


Case = Callable[["Runs", Scene, Path], None]
CASES: list[Case] = [
    the_same_bits_on_three_processes,
    the_same_bits_on_two_processes_in_a_folder_written_before,
    a_folder_of_something_else,
    a_run_and_its_evaluation_compared,
    a_run_s_own_figures,
]


@pytest.fixture(scope="module")
def outcomes(
    runs: "Runs", scene: Scene, side_by_side: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> dict[Case, Future[None]]:
    """All cases, some at a time; each test waits for its own."""
    return {case: side_by_side.submit(case, runs, scene, tmp_path_factory.mktemp(case.__name__)) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_command(outcomes: dict[Case, Future[None]], case: Case) -> None:
    outcomes[case].result()
