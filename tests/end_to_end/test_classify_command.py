"""`classify.py` on the digits: killed, resumed, on any number of processes, and what it refuses."""

import json
import re
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from PIL import Image
from pyarrow import parquet

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

# All that varies in training is on, so that all of it must come out the same.
TINY = ("--epochs", 2, "--batch-size", 60, "--optimizer.base-lr", 5e-3, "--optimizer.warmup-epochs", 0.5)
TINY += ("--augmentation.rand-augment", "rand-m9-mstd0.5-inc1", "--augmentation.erasing", 0.5, "--drop-path", 0.3)
TINY += ("--mixing.mixup", 0.8, "--mixing.cutmix", 1, "--log-every", 1, "--checkpoint-steps", 7, "--workers", 1)
TINY += ("--evaluate-epochs", 1, "--validation", 0.1, "--balance", 1, "--average", 0.9)
STEPS = 44


class Scene(NamedTuple):
    """A dataset, a pre-training run, and a fine-tuning run from it that nothing disturbed."""

    data: Path
    encoder: Path
    tuned: Path


def words(scene: Scene, out: Path, *more: object) -> tuple[object, ...]:
    return ("digits", "--data", scene.data, "--init", scene.encoder, "--out", out, *TINY, *more)


def start(
    runs: "Runs", scene: Scene, out: Path, *more: object, processes: int = 1, log: str = "", hold: int | None = None
) -> "Runs.Child":
    """Start a run, or one that does not get past a step by itself."""
    script = runs.ROOT / "finetune/classify.py"
    options = (*((script,) if hold is None else runs.held(script, hold, out)), *words(scene, out, *more))
    launch = runs.launched if processes == 2 else runs.together
    command = launch(*options, processes=processes) if processes > 1 else runs.python(*options)
    # What all others, most of them forks, are compared with is a process of its own.
    return runs.start(command, out.with_name(f"{out.name}-log{log}"), cold=out == scene.tuned)


def finish(runs: "Runs", scene: Scene, out: Path, *more: object, processes: int = 1, log: str = "") -> "Runs.Finished":
    """Run to the end; AssertionError unless it says that it is done, and leaves no process behind."""
    return runs.ended(start(runs, scene, out, *more, processes=processes, log=log), out)


@pytest.fixture(scope="module")
def scene(runs: "Runs", digits: Path, undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    scene = Scene(digits, undisturbed, tmp_path_factory.mktemp("tuned") / "run")
    said = finish(runs, scene, scene.tuned).out
    assert "image_size: 8 x 8 (from checkpoint)\n" in said
    assert "left out: norm.weight, norm.bias\n" in said
    return scene


def what_a_run_leaves(runs: "Runs", scene: Scene, folder: Path) -> None:
    evaluation = json.loads((scene.tuned / "evaluation.json").read_text())
    assert (evaluation["step"], evaluation["split"], evaluation["images"]) == (STEPS, "test", 360)
    assert evaluation["undecodable"] == 0
    assert sum(map(sum, evaluation["confusion"])) == sum(evaluation["images_per_class"]) == 360
    right = sum(row[index] for index, row in enumerate(evaluation["confusion"]))
    assert evaluation["top1"] == right / 360 > 0.1
    evaluated = [line for line in runs.metrics(scene.tuned) if "top1" in line]
    assert [line["step"] for line in evaluated] == [22, 44], "on the validation images, which are others"
    low, high = evaluation["intervals"]["top1"]
    assert low <= evaluation["top1"] <= high
    assert len(parquet.read_table(scene.tuned / "predictions.parquet")) == 360
    state = json.loads((runs.newest(scene.tuned) / "state.json").read_text())
    assert re.fullmatch(r"hold-out-0\.1-\w+\+balanced-1\.0-\w+", state["stream"]["plan"]["subset"])
    described = json.loads((scene.tuned / "model/config.json").read_text())
    assert described["label_names"] == [str(digit) for digit in range(10)]
    assert described["pretrained_cfg"]["num_classes"] == 10
    config = json.loads((scene.tuned / "config.json").read_text())
    assert config["encoder"]["width"] == 48, "the encoder's own size"


def killed_and_resumed(runs: "Runs", scene: Scene, folder: Path) -> None:
    dice, out = runs.dice(), folder / "run"
    for number in range(3):
        wanted = runs.last_step(out) + dice.randint(4, 9)
        runs.disturb(start(runs, scene, out, log=f"-{number}", hold=wanted + 4), out, wanted, signal.SIGKILL)
    assert "going on from" in finish(runs, scene, out, log="-end").out
    runs.assert_same_classifier(out, scene.tuned)


def stopped_accumulated_and_resumed(runs: "Runs", scene: Scene, folder: Path) -> None:
    out = folder / "run"
    runs.disturb(start(runs, scene, out, hold=13), out, 9, signal.SIGTERM)
    copy = folder / "accumulated"
    shutil.copytree(out, copy)
    finish(runs, scene, out, log="-again")
    runs.assert_same_classifier(out, scene.tuned)
    finish(runs, scene, copy, "--accumulate", 3)
    found, expected = runs.losses(copy), runs.losses(out)
    assert max(abs(found[step] - expected[step]) for step in expected) < 1e-4


def two_processes_train_as_one(runs: "Runs", scene: Scene, folder: Path) -> None:
    """The same samples, augmentations, mixing and drop paths: the losses differ by the order of sums alone."""
    finish(runs, scene, folder / "run", "--workers", 0, processes=2)
    found, expected = runs.losses(folder / "run"), runs.losses(scene.tuned)
    assert found.keys() == expected.keys()
    assert max(abs(found[step] - expected[step]) for step in range(1, 11)) < 1e-5
    assert max(abs(found[step] - expected[step]) for step in expected) < 1e-4


def evaluated_on_one_two_and_three(runs: "Runs", scene: Scene, folder: Path) -> None:
    """The same checkpoint evaluated anew, as after a kill between a checkpoint and its evaluation."""
    files = ("evaluation.json", "predictions.parquet")
    lines = (scene.tuned / "metrics.jsonl").read_text().splitlines()
    assert "top1" in json.loads(lines[-1])
    for processes in (1, 2, 3):
        out = folder / f"on-{processes}"
        shutil.copytree(scene.tuned, out)
        for file in files:
            (out / file).unlink()
        (out / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n")
        finish(runs, scene, out, "--workers", 0, processes=processes)
        for file in files:
            assert (out / file).read_bytes() == (scene.tuned / file).read_bytes(), file
        assert runs.metrics(out)[-1] == runs.metrics(scene.tuned)[-1]


def few_labels_at_another_size(runs: "Runs", scene: Scene, folder: Path) -> None:
    more = ("--labels", 10, "--image-size", 12, 10, "--interpolation", "timm", "--epochs", 6, "--validation", 0)
    said = finish(runs, scene, folder / "run", *more).out
    assert "image_size: 12 x 10 (as asked for)\n" in said
    assert "positions interpolated from 4 x 4 to 6 x 5 patches as timm does\n" in said
    assert "\n100 images of " in said
    state = json.loads((runs.newest(folder / "run") / "state.json").read_text())
    assert re.fullmatch(r"10-a-class-\w+\+balanced-1\.0-\w+", state["stream"]["plan"]["subset"])
    assert runs.read_exit(folder / "run")["step"] == 10


def refuse(runs: "Runs", scene: Scene, out: Path, message: str, *more: object) -> None:
    refused = start(runs, scene, out, *more).wait().expect(1)
    assert message in refused.err
    assert refused.err.startswith("classify.py: ")
    assert refused.err.count("\n") == 1, refused.err


def no_labels(runs: "Runs", scene: Scene, folder: Path) -> None:
    options = ("--source", "digits", "--out", folder / "data", "--workers", 1, "--labels", "none")
    runs.Child(runs.python(runs.ROOT / "data_pipeline/shard.py", *options), folder / "shard").wait().expect(0)
    message = f"{folder / 'data'}: this dataset has no labels; shard images in class folders or a table with a label"
    refuse(runs, scene, folder / "run", message, "--data", folder / "data")
    assert runs.read_exit(folder / "run")["status"] == "failed"


def another_number_of_classes(runs: "Runs", scene: Scene, folder: Path) -> None:
    for split, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        (folder / "images" / split / name).mkdir(parents=True)
        for number in range(4):
            path = folder / "images" / split / name / f"{number}.png"
            Image.new("RGB", (8, 8), (number * 50, len(split) * 9, ord(name))).save(path)
    options = ("--source", folder / "images", "--out", folder / "data", "--workers", 1)
    runs.Child(runs.python(runs.ROOT / "data_pipeline/shard.py", *options), folder / "shard").wait().expect(0)
    message = "--head keep: the head of {} is for 10 classes, the data have 2; drop --head keep to start with a new one"
    more = ("--data", folder / "data", "--init", scene.tuned, "--head", "keep", "--validation", 0)
    refuse(runs, scene, folder / "run", message.format(scene.tuned), *more)


def a_patch_that_does_not_divide(runs: "Runs", scene: Scene, folder: Path) -> None:
    refuse(runs, scene, folder / "run", "8 is not divisible by the patch size 3; the nearest", "--patch-size", 3, 3)


def stopped_early_and_the_best_published(runs: "Runs", scene: Scene, folder: Path) -> None:
    """Nothing is learnt at this rate: of equal evaluations the first is the best."""
    out, more = folder / "run", ("--optimizer.base-lr", 1e-12, "--patience", 1, "--evaluate-epochs", 0.5)
    said = finish(runs, scene, out, *more).out
    assert "stopped after step 22 of 44: the last evaluation did not beat top1" in said
    ended = json.loads((out / "exit.json").read_text())
    assert (ended["step"], ended["stopped_early"]) == (22, True)
    best = json.loads((out / "evaluation-best.json").read_text())
    assert (best["step"], best["model"], best["chosen_on"]) == (11, "best", "a share of train")
    weights = runs.contents(out / "model")
    assert "going on from" in finish(runs, scene, out, *more, log="-again").out
    assert runs.contents(out / "model") == weights
    assert runs.read_exit(out)["step"] == 22, "a finished run does not train on"
    command = ("--run", out, "--out", folder / "model", "--which", "best")
    runs.Child(runs.python(runs.ROOT / "finetune/publish.py", *command), folder / "publish").wait().expect(0)
    assert "in 11 steps" in (folder / "model/README.md").read_text()
    page = ("--out", folder / "report.html")
    runs.Child(runs.python(runs.ROOT / "finetune/report.py", out, *page), folder / "report").wait().expect(0)
    shown = (folder / "report.html").read_text()
    assert "The model of the best evaluation, after step 11, is in best/: top-1 " in shown
    assert "chosen on a share of train." in shown


def several_labels_an_image(runs: "Runs", scene: Scene, folder: Path) -> None:
    """An image is red, green, both or neither, and says so in the file beside it."""
    for number in range(80):
        split, red, green = "test" if number % 4 == 0 else "train", number % 3 == 0, number % 5 < 2
        path = folder / "images" / split / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (red * 200 + number % 50, green * 200, 90)).save(path)
        tags = [name for name, has in (("red", red), ("green", green)) if has]
        path.with_suffix(".json").write_text(json.dumps({"tags": tags}))
    options = ("--source", folder / "images", "--out", folder / "data", "--workers", 1)
    runs.Child(runs.python(runs.ROOT / "data_pipeline/shard.py", *options), folder / "shard").wait().expect(0)
    more = ("--data", folder / "data", "--label-field", "tags", "--balance", 0, "--epochs", 12, "--batch-size", 12)
    out = folder / "run"
    said = finish(runs, scene, out, *more, "--init", "none", "--layer-decay", "None").out
    assert "mean average precision" in said
    found = json.loads((out / "evaluation.json").read_text())
    assert found["classes"] == ["green", "red"]
    assert found["images"] == 20
    assert found["mean_average_precision"] > 0.9
    asked = ("--model", out, "--data", folder / "data", "--out", folder / "again", "--workers", 1)
    script = runs.ROOT / "finetune/validate.py"
    words = runs.python(script, *asked, "--label-field", "tags")
    said = runs.Child(words, folder / "validate").wait().expect(0).out
    line = re.search(r"^mean average precision +(\S+) +(\S+) to (\S+)$", said, re.MULTILINE)
    assert line is not None, said
    assert line[1] == f"{found['mean_average_precision']:.2%}"
    assert (folder / "again/predictions.parquet").read_bytes() == (out / "predictions.parquet").read_bytes()
    again = json.loads((folder / "again/evaluation.json").read_text())
    assert {name: again[name] for name in found.keys() - {"step", "model"}} == {
        name: found[name] for name in found.keys() - {"step", "model"}
    }
    refused = runs.Child(runs.python(script, "--compare", out, folder / "again"), folder / "compare").wait().expect(1)
    assert refused.err.endswith("of several labels an image; expected those of one, which can be compared\n")
    command = ("--run", out, "--out", folder / "model")
    runs.Child(runs.python(runs.ROOT / "finetune/publish.py", *command), folder / "publish").wait().expect(0)
    card = (folder / "model/README.md").read_text()
    assert "finds which of 2 labels belong to RGB images" in card
    assert "| Mean average precision |" in card
    assert "type: mean_average_precision" in card
    report = ("--out", folder / "report.html")
    runs.Child(runs.python(runs.ROOT / "finetune/report.py", out, *report), folder / "report").wait().expect(0)
    assert "Average precision of each class" in (folder / "report.html").read_text()


def groups_are_shown_and_nothing_written(runs: "Runs", scene: Scene, folder: Path) -> None:
    shown = start(runs, scene, folder / "run", "--show-groups", "--trainable", "last:1").wait().expect(0).out
    assert "layer  parameters of" in shown
    assert "    0  cls_token, pos_embed, patch_embed" in shown
    assert not (folder / "run").exists()


def an_unfinished_encoder(runs: "Runs", scene: Scene, folder: Path) -> None:
    unfinished = folder / "unfinished"
    shutil.copytree(scene.encoder, unfinished, ignore=shutil.ignore_patterns("encoder"))
    (unfinished / "exit.json").write_text('{"status": "preempted", "step": 28}')
    message = f"--init {unfinished}: this run has no finished encoder (exit.json: preempted at step 28); end it first: "
    refuse(runs, scene, folder / "run", message, "--init", unfinished)


def more_labels_than_there_are(runs: "Runs", scene: Scene, folder: Path) -> None:
    refuse(runs, scene, folder / "run", "--labels 1000 is above what a class has: '", "--labels", 1000)


def pairs_torn_apart(runs: "Runs", scene: Scene, folder: Path) -> None:
    message = (
        "--batch-size 61 is not divisible by 2 x 1 processes, which mixing of pairs needs; the nearest that are "
        "accepted: 60, 62; or turn it off: --mixing.mixup 0 --mixing.cutmix 0"
    )
    refuse(runs, scene, folder / "run", message, "--batch-size", 61)


Case = Callable[["Runs", Scene, Path], None]
CASES: list[Case] = [
    killed_and_resumed,
    two_processes_train_as_one,
    evaluated_on_one_two_and_three,
    stopped_accumulated_and_resumed,
    few_labels_at_another_size,
    what_a_run_leaves,
    no_labels,
    another_number_of_classes,
    a_patch_that_does_not_divide,
    stopped_early_and_the_best_published,
    several_labels_an_image,
    groups_are_shown_and_nothing_written,
    an_unfinished_encoder,
    more_labels_than_there_are,
    pairs_torn_apart,
]


@pytest.fixture(scope="module")
def outcomes(
    runs: "Runs", scene: Scene, side_by_side: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> dict[Case, Future[None]]:
    """All cases, some at a time; each test waits for its own."""
    return {case: side_by_side.submit(case, runs, scene, tmp_path_factory.mktemp(case.__name__)) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_classify(outcomes: dict[Case, Future[None]], case: Case) -> None:
    outcomes[case].result()
