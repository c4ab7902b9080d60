"""What a user may get wrong is answered by one line that says what was expected and what to do."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

Case = Callable[["Runs", Path, Path, Path], None]


def refuse(
    runs: "Runs", words: list[str], folder: Path, message: str, *, code: int = 1, is_one_line: bool = True
) -> str:
    """Run `mae.py` with words that it must refuse with this message; returns all that it complained of."""
    finished = runs.start(runs.python(runs.MAE, *words), folder / "refused").wait().expect(code)
    assert message in finished.err
    assert "Traceback" not in finished.err
    assert finished.err.startswith((f"{runs.MAE}", "mae.py: "))
    assert finished.err.count("\n") == 1 or not is_one_line, finished.err
    return finished.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digts"], "unknown recipe 'digts'; did you mean digits? Recipes: digits, "),
        ([], "expected a recipe as the first argument. Recipes: digits, "),
        (["--data", "D"], "expected a recipe as the first argument, got --data. Recipes: digits, "),
        (
            ["digits", "--data", "D", "--out", "R", "--encoder.widht", "48"],
            "unknown option --encoder.widht; did you mean --encoder.width? All options: ",
        ),
        (
            ["vit-b16-in1k", "--data", "D", "--out", "R", "--encoder.image-size", "225", "225"],
            "--encoder.image-size 225 is not divisible by the patch size 16; the nearest that are: 224, 240",
        ),
        (
            ["vit-b16-in1k", "--data", "D", "--out", "R", "--objective.mask-ratio", "0.999"],
            "--objective.mask-ratio 0.999 leaves 0 visible of 196 patches, expected at least one visible and one "
            "hidden; pass at most 0.994",
        ),
        (
            ["vit-b16-in1k", "--data", "D", "--out", "R", "--epochs", "30"],
            "--optimizer.warmup-epochs 40 leaves nothing of the run's 30 epochs; pass less, such as 1.5, "
            "or train longer",
        ),
    ],
)
def test_a_command_line_that_makes_no_sense(runs: "Runs", tmp_path: Path, words: list[str], message: str) -> None:
    refuse(runs, words, tmp_path, message, code=2)


def no_dataset(runs: "Runs", digits: Path, undisturbed: Path, folder: Path) -> None:
    words = runs.options(undisturbed, folder / "run")
    refuse(runs, words, folder, f"mae.py: {undisturbed}: no manifest.json, so this is not a dataset folder; make one ")
    assert runs.read_exit(folder / "run")["status"] == "failed"
    assert "no manifest.json" in runs.read_exit(folder / "run")["error"]


def no_such_split(runs: "Runs", digits: Path, undisturbed: Path, folder: Path) -> None:
    words = runs.options(digits, folder / "run", "--split", "validation")
    refuse(runs, words, folder, "no split 'validation'; it has: train, test")


def another_run(runs: "Runs", digits: Path, undisturbed: Path, folder: Path) -> None:
    before = runs.contents(undisturbed)
    words = runs.options(digits, undisturbed, "--seed", 1, "--encoder.depth", 3)
    said = refuse(runs, words, folder, "holds another run, which differs in fields that cannot", is_one_line=False)
    assert "\n  encoder.depth: folder has 2, asked for 3\n" in said
    assert "\n  seed: folder has 0, asked for 1\n" in said
    assert "give another --out for a new run, or continue this one with --encoder.depth 2 --seed 0" in said
    assert runs.contents(undisturbed) == before


def a_folder_with_other_things(runs: "Runs", digits: Path, undisturbed: Path, folder: Path) -> None:
    (folder / "home").mkdir()
    (folder / "home/letter.txt").write_text("Dear")
    words = runs.options(digits, folder / "home")
    refuse(runs, words, folder, "home: not a run folder: it holds letter.txt, but no config.json; expected a new, ")
    assert runs.contents(folder / "home") == {"letter.txt": b"Dear"}


def a_checkpoint_of_another_model(runs: "Runs", digits: Path, undisturbed: Path, folder: Path) -> None:
    for option in ("--resume", "--init-from"):
        words = runs.options(digits, folder / option, "--encoder.width", 96, "--encoder.depth", 1, option, undisturbed)
        said = refuse(runs, words, folder, "model.safetensors does not fit the model: missing none; not expected ")
        assert "encoder.blocks.1." in said
        assert "attn.qkv.weight [144, 48] instead of [288, 96]" in said
        assert "give the options of the run that wrote it" in said


def a_checkpoint_that_is_not_there(runs: "Runs", digits: Path, undisturbed: Path, folder: Path) -> None:
    words = runs.options(digits, folder / "run", "--resume", digits)
    message = f"--resume {digits}: expected a checkpoint folder (with state.json) or a run folder with checkpoints, "
    refuse(runs, words, folder, f"{message}found a folder without either")
    words = runs.options(digits, folder / "run", "--init-from", digits)
    refuse(runs, words, folder, f"mae.py: --init-from {digits}: a folder without model.safetensors, pytorch_")


def more_parts_than_images(runs: "Runs", digits: Path, undisturbed: Path, folder: Path) -> None:
    words = runs.options(digits, folder / "run", "--accumulate", 65)
    refuse(runs, words, folder, "mae.py: --accumulate 65 is more than the 64 images of each process; give at most 64")


def another_batch_size(runs: "Runs", digits: Path, undisturbed: Path, folder: Path) -> None:
    """Steps are counted anew in the new size; where the run stands between two of its batches, it cannot go on."""
    more = ("--epochs", 2.5, "--workers", 0, "--resume", undisturbed, "--batch-size")
    words = runs.options(digits, folder / "larger", *more, 128)
    said = refuse(runs, words, folder, f"mae.py: --resume {undisturbed}: it stands at position 2,880 of the stream, ")
    assert "not a whole number of batches of 128" in said
    assert f"or start with its weights alone: --init-from {undisturbed}" in said
    runs.finish(digits, folder / "smaller", *more, 32)
    assert list(runs.losses(folder / "smaller")) == list(range(2 * runs.STEPS + 1, 114))
    assert runs.read_exit(folder / "smaller")["step"] == 113


def a_learning_rate_that_explodes(runs: "Runs", digits: Path, undisturbed: Path, folder: Path) -> None:
    words = runs.options(digits, folder / "run", "--optimizer.base-lr", 1e20, "--log-every", 20)
    said = refuse(runs, words, folder, "mae.py: losses or gradients of 5 steps from 3 on are not finite, and there is ")
    assert "there is no checkpoint from before them to go back to; " in said
    assert f"{folder / 'run/anomalies'} says of which images and parameters. " in said
    assert "In a new run lower --optimizer.base-lr or --checkpoint-steps, or set --optimizer.clip-norm" in said
    # Also not of the steps that were skipped, whose weights are numbers, if hardly good ones.
    assert not list((folder / "run/checkpoints").iterdir())


def a_batch_that_processes_cannot_share(runs: "Runs", digits: Path, undisturbed: Path, folder: Path) -> None:
    run = runs.train(digits, folder / "run", "--batch-size", 63, processes=2)
    refused = run.wait().expect(1)
    assert "rank 0: --batch-size 63 is not divisible by 2 processes; the nearest that are: 62, 64" in refused.err
    assert run.is_gone(), f"processes remain: {run.members()}"
    assert runs.read_exit(folder / "run")["status"] == "failed"


CASES: list[Case] = [
    a_batch_that_processes_cannot_share,
    no_dataset,
    no_such_split,
    another_run,
    a_folder_with_other_things,
    a_checkpoint_of_another_model,
    a_checkpoint_that_is_not_there,
    more_parts_than_images,
    another_batch_size,
    a_learning_rate_that_explodes,
]


@pytest.fixture(scope="module")
def outcomes(
    runs: "Runs",
    digits: Path,
    undisturbed: Path,
    side_by_side: ThreadPoolExecutor,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[Case, Future[None]]:
    """All cases, some at a time; each test waits for its own."""
    return {
        case: side_by_side.submit(case, runs, digits, undisturbed, tmp_path_factory.mktemp(case.__name__))
        for case in CASES
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_cannot_be_used(outcomes: dict[Case, Future[None]], case: Case) -> None:
    outcomes[case].result()
