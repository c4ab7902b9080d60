"""`probe.py` on the digits: what it measures, through kills and on any number of processes, and what it refuses."""

import json
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import timm
from timm.models import save_for_hf

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

LARS = ("digits-lars", "--epochs", 4, "--batch-size", 128, "--optimizer.warmup-epochs", 1, "--evaluate-epochs", 2)
LARS += (
    "--optimizer.base-lr",
    1,
    "--optimizer.trust",
    0.1,
    "--log-every",
    1,
    "--checkpoint-steps",
    6,
    "--knn.most-train",
    500,
)
STEPS = 45


class Scene(NamedTuple):
    """A dataset, a run whose encoder is probed, a LARS probe of it that nothing disturbed, and what that said."""

    data: Path
    encoder: Path
    trained: Path
    said: str


def start(
    runs: "Runs", scene: Scene, out: Path, *words: object, processes: int = 1, log: str = "", cold: bool = False
) -> "Runs.Child":
    recipe, *more = words
    script = runs.ROOT / "finetune/probe.py"
    options = (script, recipe, "--data", scene.data, "--init", scene.encoder, "--out", out, "--workers", 1, *more)
    # Launched where it trains.
    launch = runs.launched if recipe == "digits-lars" else runs.together
    command = launch(*options, processes=processes) if processes > 1 else runs.python(*options)
    return runs.start(command, out.with_name(f"{out.name}-log{log}"), cold=cold)


def finish(
    runs: "Runs", scene: Scene, out: Path, *words: object, processes: int = 1, log: str = "", cold: bool = False
) -> "Runs.Finished":
    """Run to the end; AssertionError unless it says that it is done, and leaves no process behind."""
    child = start(runs, scene, out, *words, processes=processes, log=log, cold=cold)
    finished = child.wait().expect(0)
    assert child.is_gone(), f"processes remain: {child.members()}"
    assert runs.read_exit(out)["status"] == "done"
    assert finished.out.splitlines()[-1] == f"done: {out / 'probe.json'}"
    return finished


def result(out: Path) -> dict[str, Any]:
    return json.loads((out / "probe.json").read_text())


def assert_same(runs: "Runs", run: Path, undisturbed: Path) -> None:
    for file in ("model.safetensors", "optimizer.safetensors", "state.json"):
        assert (runs.newest(run) / file).read_bytes() == (runs.newest(undisturbed) / file).read_bytes(), file
    for file in ("probe.json", "evaluation.json"):
        assert (run / file).read_bytes() == (undisturbed / file).read_bytes(), file
    assert runs.metrics(run) == runs.metrics(undisturbed)


@pytest.fixture(scope="module")
def scene(runs: "Runs", digits: Path, undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    out = tmp_path_factory.mktemp("lars") / "probe"
    empty = Scene(digits, undisturbed, out, "")
    return empty._replace(said=finish(runs, empty, out, *LARS, cold=True).out)


def one_pass_on_one_process_and_on_two(runs: "Runs", scene: Scene, folder: Path) -> None:
    alone, two = folder / "alone", folder / "two"
    said = finish(runs, scene, alone, "small").out
    finish(runs, scene, two, "small", "--feature-cache", "none", "--workers", 0, processes=2)
    assert (alone / "probe.json").read_bytes() == (two / "probe.json").read_bytes()
    found = result(alone)
    assert found["model"] == str(scene.encoder / "encoder")
    assert (found["data"], found["split"], found["held_out"]) == (str(scene.data), "train", "test")
    assert (found["train_images"], found["held_out_images"]) == (1437, 360)
    assert (found["features"], found["view"]) == ("mean of patch tokens", "CenterCrop(size=(8, 8), fraction=1.0)")
    assert found["linear"]["method"] == "logistic regression"
    assert found["knn"]["top1"] > 0.3
    assert [row["neighbours"] for row in found["knn"]["sweep"]] == [1, 5, 10, 20, 50, 100, 200]
    assert found["linear"]["top1"] > 0.5
    few = {row["shots"]: row["mean"] for row in found["few_shot"]["results"]}
    assert few.keys() == {1, 2, 5, 10}
    assert few[1] < few[10] < found["linear"]["top1"]
    assert "image_size: 8 x 8 (from checkpoint)\n" in said
    assert f"\nk-NN {100 * found['knn']['top1']:.1f} % (k = 20)\n" in said
    strength = found["linear"]["C"]
    assert f"\nlinear {100 * found['linear']['top1']:.1f} % (logistic regression, C = {strength:g})\n" in said
    assert f"\nfew-shot by images a class: 1 {100 * few[1]:.1f} ± " in said
    # Once more, now without any image: the features are there.
    shutil.copytree(scene.data, folder / "data", ignore=shutil.ignore_patterns("*.tar"))
    said = finish(runs, scene._replace(data=folder / "data"), alone, "small", log="-again").out
    assert f"\nfeatures of test: those of 360 images are in {folder / '.feature-cache'}" in said
    assert result(alone) == {**found, "data": str(folder / "data")}


def sweep_on_one_process_and_on_two(runs: "Runs", scene: Scene, folder: Path) -> None:
    alone, two = folder / "alone", folder / "two"
    words = ("digits-sweep", "--sweep.iterations", 60, "--sweep.blocks", 1, 2, "--features", "token")
    said = finish(runs, scene, alone, *words).out
    finish(runs, scene, two, *words, "--feature-cache", "none", "--workers", 0, processes=2)
    assert (alone / "probe.json").read_bytes() == (two / "probe.json").read_bytes()
    found = result(alone)
    assert found["features"] == "class token"
    linear = found["linear"]
    assert (linear["method"], linear["steps"], linear["batch_size"]) == ("SGD sweep", 60, 256)
    assert len(linear["sweep"]) == 2 * 2 * 13
    assert linear["top1"] > 0.25
    assert f"\nlinear {100 * linear['top1']:.1f} % (SGD, {linear['features']}, base_lr = " in said
    assert runs.read_exit(alone)["step"] == 60


def lars_on_a_model_of_timm(runs: "Runs", scene: Scene, folder: Path) -> None:
    stock = folder / "stock"
    model = timm.create_model("test_resnet", num_classes=5, pretrained_cfg_overlay={"input_size": (3, 32, 32)})
    save_for_hf(model, str(stock), safe_serialization=True)
    words = ("--epochs", 2, "--optimizer.warmup-epochs", 1, "--batch-size", 256, "--knn.most-train", 300)
    asked = scene._replace(encoder=stock)
    message = f"--features token: {stock} is a ResNet, which has no class token of a plain vision transformer; give "
    assert refuse(runs, start(runs, asked, folder / "p", "digits-lars"), message).count("\n") == 1
    said = finish(runs, asked, folder / "probe", "digits-lars", "--features", "pooled", *words).out
    found = result(folder / "probe")
    assert (found["features"], found["model"], found["image_size"]) == ("pooled features", str(stock), [32, 32])
    assert found["view"].startswith("StockView(size=(32, 32), interpolation='bilinear', crop_fraction=0.95, ")
    assert (found["linear"]["method"], found["knn"]["train_images"]) == ("LARS", 300)
    assert f"features of {stock}, its head left out: pooled features, 96 numbers an image\n" in said


def lars_killed_and_resumed(runs: "Runs", scene: Scene, folder: Path) -> None:
    out = folder / "probe"
    child = start(runs, scene, out, *LARS)
    child.wait_until(lambda: runs.last_step(out) >= 15)
    child.send(signal.SIGKILL)
    child.wait().expect(-9)
    assert child.is_gone(), f"processes remain: {child.members()}"
    assert not (out / "probe.json").exists()
    assert "going on from" in finish(runs, scene, out, *LARS, log="-again").out
    assert_same(runs, out, scene.trained)
    assert not [path for path in out.rglob(".partial-*") if ".lock" not in path.parts]


def lars_stopped_by_a_file(runs: "Runs", scene: Scene, folder: Path) -> None:
    out = folder / "probe"
    child = start(runs, scene, out, *LARS)
    child.wait_until(lambda: runs.last_step(out) >= 9)
    (out / "stop").touch()
    child.wait().expect(0)
    assert runs.read_exit(out)["status"] == "preempted"
    assert not (out / "probe.json").exists()
    finish(runs, scene, out, *LARS, log="-again")
    assert_same(runs, out, scene.trained)


def lars_on_two_processes(runs: "Runs", scene: Scene, folder: Path) -> None:
    """Trained by two, the sums differ in their order alone; evaluated by two, a layer gives the same logits."""
    together, evaluated = folder / "together", folder / "evaluated"
    finish(runs, scene, together, *LARS, "--workers", 0, processes=2)
    found, expected = runs.losses(together), runs.losses(scene.trained)
    assert list(found) == list(expected) == list(range(1, STEPS + 1))
    worst = max(expected, key=lambda step: abs(found[step] - expected[step]))
    assert abs(found[worst] - expected[worst]) <= 1e-4, f"step {worst}: {found[worst]} and {expected[worst]}"
    assert max(abs(found[step] - expected[step]) for step in range(1, 11)) <= 1e-5

    shutil.copytree(scene.trained, evaluated)
    lines = [line for line in (evaluated / "metrics.jsonl").read_text().splitlines() if "top1" not in line]
    (evaluated / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    for name in ("probe.json", "evaluation.json"):
        (evaluated / name).unlink()
    finish(runs, scene, evaluated, *LARS, "--workers", 0, processes=2)
    nll = [line["nll"] for line in runs.metrics(evaluated) if "nll" in line]
    assert nll == [line["nll"] for line in runs.metrics(scene.trained) if "nll" in line][-1:]
    for name in ("probe.json", "evaluation.json"):
        assert (evaluated / name).read_bytes() == (scene.trained / name).read_bytes(), name


def refuse(runs: "Runs", child: "Runs.Child", message: str) -> str:
    said = child.wait().expect(1).err
    assert said.startswith("probe.py: ")
    assert message in said
    assert "Traceback" not in said
    return said


def no_labels(runs: "Runs", scene: Scene, folder: Path) -> None:
    data = folder / "unlabelled"
    words = ("--source", "digits", "--labels", "none", "--out", data, "--workers", 1)
    runs.Child(runs.python(runs.ROOT / "data_pipeline/shard.py", *words), folder / "shard").wait().expect(0)
    said = refuse(
        runs, start(runs, scene._replace(data=data), folder / "p", "small"), f"{data}: this dataset has no labels; "
    )
    assert said.count("\n") == 1


def no_held_out_split(runs: "Runs", scene: Scene, folder: Path) -> None:
    child = start(runs, scene, folder / "p", "digits-lars", "--held-out", "validation")
    message = f"--held-out validation: {scene.data} has no such split, expected one of train, test; a probe needs one "
    assert refuse(runs, child, message).count("\n") == 1


def no_finished_encoder(runs: "Runs", scene: Scene, folder: Path) -> None:
    (folder / "run").mkdir()
    shutil.copy(scene.encoder / "config.json", folder / "run")
    child = start(runs, scene._replace(encoder=folder / "run"), folder / "p", "small")
    assert refuse(runs, child, f"--init {folder / 'run'}: this run has no finished encoder (").count("\n") == 1
    assert runs.read_exit(folder / "p")["status"] == "failed"


def a_folder_of_something_else(runs: "Runs", scene: Scene, folder: Path) -> None:
    before = runs.contents(scene.encoder)
    refuse(runs, start(runs, scene, scene.encoder, "small", log=folder.name), "holds another run, which ")
    assert runs.contents(scene.encoder) == before
    out = folder / "p"
    shutil.copytree(scene.trained, out)
    said = refuse(runs, start(runs, scene, out, *LARS, "--seed", 1), "holds another run, which ")
    assert "\n  seed: folder has 0, asked for 1\n" in said


Case = Callable[["Runs", Scene, Path], None]
CASES: list[Case] = [
    lars_on_two_processes,
    lars_killed_and_resumed,
    one_pass_on_one_process_and_on_two,
    sweep_on_one_process_and_on_two,
    lars_on_a_model_of_timm,
    lars_stopped_by_a_file,
    no_labels,
    no_held_out_split,
    no_finished_encoder,
    a_folder_of_something_else,
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


def test_a_probe_trained_by_lars(runs: "Runs", scene: Scene) -> None:
    out = scene.trained
    found = result(out)
    assert found["features"] == "class token"
    settings = {"epochs": 4.0, "steps": STEPS, "batch_size": 128, "base_lr": 1.0, "trust": 0.1}
    counts = {"train_images": 1437, "held_out_images": 360}
    linear = dict(found["linear"])
    assert linear.pop("top1") > 0.4
    assert linear == {"method": "LARS", **settings, **counts}
    assert (found["train_images"], found["held_out_images"]) == (1437, 360)
    assert found["knn"]["train_images"] == 500
    assert f"\nlinear {100 * found['linear']['top1']:.1f} % (LARS, 4 epochs)\n" in scene.said
    evaluations = [line for line in runs.metrics(out) if "top1" in line]
    assert [line["step"] for line in evaluations] == [23, STEPS]
    assert evaluations[-1]["top1"] == found["linear"]["top1"]
    files = {path.name for path in runs.newest(out).iterdir()}
    assert files == {"model.safetensors", "optimizer.safetensors", "state.json", "checksums.json"}
    assert (runs.newest(out) / "model.safetensors").stat().st_size < 5000, "the encoder is no part of the checkpoint"
