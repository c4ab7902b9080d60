"""`distill.py` on the digits, beside a teacher's logits: killed, resumed, on two processes, with what the teacher says
kept, alone, and what it refuses.
"""

import json
import math
import re
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

SIZES = ("--encoder.image-size", 8, 8, "--encoder.patch-size", 2, 2, "--encoder.width", 48, "--encoder.depth", 2)
SIZES += ("--encoder.heads", 3, "--precision", "fp32", "--normalization", "dataset", "--workers", 1)
SIZES += ("--batch-size", 36, "--log-every", 1, "--checkpoint-steps", 7, "--optimizer.base-lr", 5e-3)
# All that varies in training is on, so that all of it must come out the same; of the images a quarter has a label.
BAG = ("--epochs", 0.6, "--views", 2, "--labels", 40, "--unlabelled", "--validation", 0.1, "--evaluate-epochs", 0.3)
BAG += ("--augmentation.rand-augment", "rand-m9-mstd0.5-inc1", "--augmentation.erasing", 0.5, "--drop-path", 0.3)
BAG += ("--mixing.mixup", 0.8, "--mixing.cutmix", 1, "--mixing.label-smoothing", 0.1, "--average", 0.9)
BAG += ("--distillation.kind", "soft", "--distillation.temperature", 2, "--optimizer.warmup-epochs", 0.2)
# A teacher with batch norms, which sees images of its own size.
OWN = ("--own-teacher.encoder.name", "test_resnet", "--own-teacher.encoder.image-size", 16, 16)
OWN += ("--own-teacher.epochs", 2, "--own-teacher.optimizer.warmup-epochs", 0.2, "--own-teacher.optimizer.base-lr", 1)
STEPS, TEACHER_STEPS = 47, 20
# Images that are cropped and flipped and nothing else, so that with and without a cache the same are seen.
PLAIN = ("--epochs", 3, "--views", 1, "--labels", 36, "--optimizer.warmup-epochs", 0.5, "--evaluate-epochs", 0)
PLAIN += ("--augmentation.rand-augment", "None", "--augmentation.erasing", 0, "--average", "None")
PLAIN += ("--mixing.mixup", 0, "--mixing.cutmix", 0)
PLAIN_EPOCH = 360  # images, in 10 steps
KEPT = 1e-4  # of a loss: rounding changes logits by a thousandth, some up and some down


class Scene(NamedTuple):
    """A dataset, and a run of which nothing disturbed either the teacher or the student."""

    data: Path
    run: Path

    @property
    def teacher(self) -> Path:
        """The teacher's own run."""
        return self.run / "teacher"


def start(
    runs: "Runs",
    scene: Scene,
    out: Path,
    *more: object,
    recipe: str = "deit-ti4-cifar10",
    processes: int = 1,
    crash: tuple[str, int] | None = None,
    hold: tuple[int, Path] | None = None,
    cold: bool = False,
) -> "Runs.Child":
    """Start a run; or one that dies when a point of crash_at.py is reached so often, or that does not get past a step
    of a run folder by itself.
    """
    script: tuple[Any, ...] = (runs.ROOT / "pretrain/distill.py",)
    if crash is not None:
        script = (runs.HERE / "crash_at.py", *crash, *script)
    elif hold is not None:
        script = runs.held(*script, *hold)
    words = (*script, recipe, "--data", scene.data, "--out", out, *SIZES, *more)
    command = runs.launched(*words, processes=processes) if processes > 1 else runs.python(*words)
    return runs.start(command, out.with_name(f"{out.name}-log-{len(list(out.parent.iterdir()))}"), cold=cold)


def finish(runs: "Runs", scene: Scene, out: Path, *more: object, **how: Any) -> "Runs.Finished":
    """Run to the end; AssertionError unless it says that it is done, and leaves no process behind."""
    return runs.ended(start(runs, scene, out, *more, **how), out)


@pytest.fixture(scope="module")
def scene(runs: "Runs", digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The teacher of all other runs is trained in this one."""
    scene = Scene(digits, tmp_path_factory.mktemp("distilled") / "run")
    finished = finish(runs, scene, scene.run, "--teacher", "own", *BAG, *OWN, cold=True)
    assert finished.err == ""
    assert f"training the teacher first, in {scene.teacher}: a file named stop there, or TERM, " in finished.out
    assert "which sees the student's 8 x 8 pixels resized to 16 x 16 (bicubic) with mean " in finished.out
    assert "360 images take part with their labels, 1,037 without\n" in finished.out
    return scene


def what_a_run_leaves(runs: "Runs", scene: Scene, folder: Path) -> None:
    lines = [json.loads(line) for line in (scene.run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    for line in steps:
        assert line["teacher_loss"] > 0
        assert 0 <= line["agreement"] <= 1
        assert 0 <= line["teacher"] < 1
    assert sum(line["teacher"] for line in steps) > 0, "asked for a batch while the step before it is still to be told"
    assert steps[-1]["teacher_loss"] < steps[0]["teacher_loss"]
    assert runs.read_exit(scene.run)["step"] == STEPS
    assert runs.read_exit(scene.teacher)["step"] == TEACHER_STEPS
    state = json.loads((runs.newest(scene.run) / "state.json").read_text())
    assert re.fullmatch(r"40-a-class-\w+\+hold-out-0\.1-\w+\+everyone-\w+", state["stream"]["plan"]["subset"])
    of_teacher = json.loads((runs.newest(scene.teacher) / "state.json").read_text())
    assert re.fullmatch(r"40-a-class-\w+\+hold-out-0\.1-\w+", of_teacher["stream"]["plan"]["subset"]), "labels alone"
    recorded = json.loads((scene.run / "teacher.json").read_text())
    assert (recorded["name"], recorded["architecture"]) == (str(scene.teacher), "test_resnet")
    evaluation = json.loads((scene.run / "evaluation.json").read_text())
    assert (evaluation["step"], evaluation["split"], evaluation["images"]) == (STEPS, "test", 360)
    described = json.loads((scene.run / "model/config.json").read_text())
    assert described["architecture"] == "deit_tiny_distilled_patch16_224"
    assert described["label_names"] == [str(digit) for digit in range(10)]


def disturbed_while_the_teacher_is_trained(runs: "Runs", scene: Scene, folder: Path) -> None:
    """Killed, stopped, and killed once more as soon as it is known who teaches."""
    out, dice, more = folder / "run", runs.dice(), ("--teacher", "own", *BAG, *OWN)
    teacher = out / "teacher"
    for number in (signal.SIGKILL, signal.SIGTERM):
        wanted = runs.last_step(teacher) + dice.randint(2, 5)
        child = start(runs, scene, out, *more, hold=(wanted + 4, teacher))
        stopped = runs.disturb(child, teacher, wanted, number)
    assert "the same command goes on from there" in stopped.out
    assert runs.read_exit(out) == {**runs.read_exit(out), "status": "preempted", "step": 0}
    start(runs, scene, out, *more, crash=("teacher-recorded", 1)).wait().expect(-9)
    assert runs.read_exit(teacher)["status"] == "done"
    trained = runs.contents(teacher)
    assert "training the teacher first" not in finish(runs, scene, out, *more).out
    assert runs.contents(teacher) == trained, "once is enough"
    runs.assert_same_classifier(teacher, scene.teacher)
    runs.assert_same_classifier(out, scene.run)


def disturbed_while_the_student_is_trained(runs: "Runs", scene: Scene, folder: Path) -> None:
    out, dice, more = folder / "run", runs.dice(), ("--teacher", scene.teacher, *BAG, *OWN)
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        wanted = runs.last_step(out) + dice.randint(4, 10)
        runs.disturb(start(runs, scene, out, *more, hold=(wanted + 4, out)), out, wanted, number)
    assert "going on from" in finish(runs, scene, out, *more).out
    runs.assert_same_classifier(out, scene.run)


def two_processes_learn_as_one(runs: "Runs", scene: Scene, folder: Path) -> None:
    """The same samples, augmentations, mixing and drop paths, and a teacher of the same weights: the losses differ by
    the order of sums alone. A student with batch norms would be another: each process normalises by its own images.
    """
    finish(runs, scene, folder / "run", "--teacher", scene.teacher, *BAG, *OWN, processes=2)
    found, expected = runs.losses(folder / "run"), runs.losses(scene.run)
    assert found.keys() == expected.keys()
    assert max(abs(found[step] - expected[step]) for step in range(1, 11)) < 1e-5
    assert max(abs(found[step] - expected[step]) for step in expected) < 1e-4


def what_the_teacher_says_is_kept(runs: "Runs", scene: Scene, folder: Path) -> None:
    """Two views of each image: the first two epochs show what they would without a cache, the third the first again."""
    shutil.copytree(scene.data, folder / "data")
    scene = scene._replace(data=folder / "data")
    more = ("--teacher", scene.teacher, *PLAIN, "--distillation.kind", "soft")
    finish(runs, scene, folder / "asked", *more)
    kept = finish(runs, scene, folder / "kept", *more, "--cache-teacher.views", 2, cold=True)
    (cache,) = (folder / "data/.teacher").iterdir()
    computed = f"computing the teacher's logits of 2 views of {PLAIN_EPOCH} images, to keep them in 0.01 MB: {cache}\n"
    assert computed in kept.out
    asked, found = runs.losses(folder / "asked"), runs.losses(folder / "kept")
    assert max(abs(found[step] - asked[step]) for step in range(1, 21)) < KEPT
    assert max(abs(found[step] - asked[step]) for step in range(21, 31)) > 10 * KEPT

    out, elsewhere = folder / "killed", folder / "cache"
    more += ("--cache-teacher.views", 2, "--cache-teacher.folder", elsewhere)
    start(runs, scene, out, *more, crash=("cache-half-filled", 2)).wait().expect(-9)
    assert not json.loads((elsewhere / "cache.json").read_text())["files"]
    wanted = runs.dice().randint(4, 20)
    filled = runs.disturb(start(runs, scene, out, *more, hold=(wanted + 4, out)), out, wanted, signal.SIGKILL).out
    assert "computing the teacher's logits" in filled
    assert "the teacher's logits of 2 views of 360 images are there already" in finish(runs, scene, out, *more).out
    runs.assert_same_classifier(out, folder / "kept")
    assert files_of(runs, elsewhere) == files_of(runs, cache)

    wrong = ("--teacher", scene.run, "--seed", 1)
    said = refuse(runs, scene, folder / "wrong", f"--cache-teacher.folder {elsewhere}: holds a tea", *more, *wrong)
    assert f"teacher.name there {scene.teacher}, here {scene.run} (--teacher)" in said
    assert "images.seed there 0, here 1 (--seed)" in said


def the_likeliest_classes_are_kept(runs: "Runs", scene: Scene, folder: Path) -> None:
    """The likeliest of all is never another, so that hard distillation does not change at all."""
    more = ("--teacher", scene.teacher, *PLAIN, "--epochs", 2)
    finish(runs, scene, folder / "asked", *more)
    cache = ("--cache-teacher.views", 2, "--cache-teacher.classes", 3, "--cache-teacher.folder", folder / "cache")
    finish(runs, scene, folder / "kept", *more, *cache)
    assert runs.metrics(folder / "kept") == runs.metrics(folder / "asked")
    assert runs.contents(folder / "kept/model") == runs.contents(folder / "asked/model")


def files_of(runs: "Runs", cache: Path) -> dict[str, bytes]:
    return {name: content for name, content in runs.contents(cache).items() if not name.startswith(".")}


def without_a_teacher(runs: "Runs", scene: Scene, folder: Path) -> None:
    """As DeiT III trains: 3-Augment, colour jitter, a binary loss, LAMB."""
    more = ("--epochs", 0.2, "--optimizer.warmup-epochs", 0.1)
    said = finish(runs, scene, folder / "run", *more, recipe="deit3-s-in1k").out
    assert "1,437 images of" in said
    assert "each shown 3 times" in said
    config = json.loads((folder / "run/config.json").read_text())
    assert (config["loss"], config["optimizer"]["algorithm"]) == ("bce-any", "lamb")
    assert config["augmentation"]["three_augment"]
    assert config["augmentation"]["colour_jitter"] > 0
    losses = runs.losses(folder / "run")
    assert abs(losses[1] - math.log(2)) < 0.1, "each class as likely as not"
    assert losses[len(losses)] < losses[1]
    assert not (folder / "run/teacher.json").exists()


def refuse(runs: "Runs", scene: Scene, out: Path, message: str, *more: object) -> str:
    refused = start(runs, scene, out, *more).wait().expect(1)
    assert message in refused.err
    assert refused.err.startswith("distill.py: ")
    assert refused.err.count("\n") == 1, refused.err
    assert runs.read_exit(out)["status"] == "failed"
    assert not (out / "model").exists()
    return refused.err


def no_such_teacher(runs: "Runs", scene: Scene, folder: Path) -> None:
    missing = folder / "nobody"
    said = refuse(
        runs, scene, folder / "run", f"distill.py: --teacher {missing}: expected a run f", "--teacher", missing
    )
    assert said.endswith("found no such file or folder\n")


def another_teacher_than_began_it(runs: "Runs", scene: Scene, folder: Path) -> None:
    shutil.copytree(scene.run, folder / "run")
    before = runs.contents(folder / "run/checkpoints")
    config = (folder / "run/config.json").read_bytes()
    message = (
        f"--teacher {scene.run}: the run in {folder / 'run'} was begun with another teacher, {scene.teacher} (weig"
    )
    refused = start(runs, scene, folder / "run", "--teacher", scene.run, *BAG, *OWN).wait().expect(1)
    assert message in refused.err
    assert refused.err.endswith("give that one, or another --out\n")
    assert runs.contents(folder / "run/checkpoints") == before
    assert (folder / "run/config.json").read_bytes() == config


def teach(scene: Scene, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A teacher like the scene's, of which its config.json says something else."""
    shutil.copytree(scene.teacher / "model", folder / "teacher")
    described = json.loads((folder / "teacher/config.json").read_text())
    change(described)
    (folder / "teacher/config.json").write_text(json.dumps(described))
    return folder / "teacher"


def a_teacher_of_other_classes(runs: "Runs", scene: Scene, folder: Path) -> None:
    teacher = teach(scene, folder, lambda described: described.update(num_classes=12))
    message = f"--teacher: the head of {teacher} is for 12 classes, the data have 10; give a model that was trained on "
    refuse(runs, scene, folder / "run", message, "--teacher", teacher)


def a_teacher_of_the_same_in_another_order(runs: "Runs", scene: Scene, folder: Path) -> None:
    teacher = teach(scene, folder, lambda described: described["label_names"].reverse())
    message = (
        f"--teacher: the head of {teacher} has classes of the data in another order: its number 0 is '9', that of "
    )
    refuse(runs, scene, folder / "run", message, "--teacher", teacher)


def no_labels(runs: "Runs", scene: Scene, folder: Path) -> None:
    data = folder / "data"
    options = ("--source", "digits", "--out", data, "--workers", 1, "--labels", "none")
    runs.Child(runs.python(runs.ROOT / "data_pipeline/shard.py", *options), folder / "shard").wait().expect(0)
    message = f"distill.py: {data}: this dataset has no labels; shard images in class folders or a table with a label"
    refuse(runs, scene._replace(data=data), folder / "run", message, "--teacher", scene.teacher, "--unlabelled")


def a_teacher_that_cannot_be_trained(runs: "Runs", scene: Scene, folder: Path) -> None:
    """What is refused of it is told apart from what is the student's."""
    message = "distill.py: --own-teacher: --batch-size 61 is not divisible by 2 x 1 processes, which mixing of pairs "
    refuse(runs, scene, folder / "run", message, "--teacher", "own", *BAG, *OWN, "--own-teacher.batch-size", 61)


def a_head_that_nobody_trains(runs: "Runs", scene: Scene, folder: Path) -> None:
    message = "--encoder.name deit_tiny_distilled_patch16_224: half of what it says at inference comes from a head that"
    more = ("--teacher", "none", "--distillation.kind", "none")
    assert "such as deit_tiny_patch16_224" in refuse(runs, scene, folder / "run", message, *more)


def groups_are_shown_and_nothing_written(runs: "Runs", scene: Scene, folder: Path) -> None:
    more = ("--teacher", folder / "nobody", "--show-groups", "--layer-decay", 0.75)
    shown = start(runs, scene, folder / "run", *more).wait().expect(0).out
    assert "layer  parameters of" in shown
    assert "    0  cls_token, pos_embed, dist_token, patch_embed" in shown
    assert "head_dist" in shown
    assert not (folder / "run").exists()


Case = Callable[["Runs", Scene, Path], None]
CASES: list[Case] = [
    disturbed_while_the_teacher_is_trained,
    disturbed_while_the_student_is_trained,
    what_the_teacher_says_is_kept,
    two_processes_learn_as_one,
    the_likeliest_classes_are_kept,
    what_a_run_leaves,
    without_a_teacher,
    no_such_teacher,
    another_teacher_than_began_it,
    a_teacher_of_other_classes,
    a_teacher_of_the_same_in_another_order,
    a_teacher_that_cannot_be_trained,
    no_labels,
    a_head_that_nobody_trains,
    groups_are_shown_and_nothing_written,
]


@pytest.fixture(scope="module")
def outcomes(
    runs: "Runs", scene: Scene, side_by_side: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> dict[Case, Future[None]]:
    """All cases, some at a time; each test waits for its own."""
    return {case: side_by_side.submit(case, runs, scene, tmp_path_factory.mktemp(case.__name__)) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_distill(outcomes: dict[Case, Future[None]], case: Case) -> None:
    outcomes[case].result()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--teacher", "none"),
            "--teacher none: nobody to learn from by --distillation.kind hard; pass --distillation.kind none as well",
        ),
        (
            ("--teacher", "T", "--distillation.kind", "none"),
            "--teacher T: would be asked for nothing by --distillation.kind none; pass --distillation.kind hard or ",
        ),
        (
            ("--teacher", "T", "--cache-teacher.views", 2),
            "--cache-teacher.views keeps what a teacher says of single images, and mixed ones are new in every batch; ",
        ),
    ],
)
def test_options_that_do_not_go_together(
    runs: "Runs", tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    words = ("deit-ti4-cifar10", "--data", "D", "--out", tmp_path / "run", *options)
    refused = runs.Child(runs.python(runs.ROOT / "pretrain/distill.py", *words), tmp_path / "log").wait().expect(2)
    assert message in refused.err
    assert refused.err.count("\n") == 1
    assert not (tmp_path / "run").exists()
