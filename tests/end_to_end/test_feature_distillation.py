"""`distill.py` learns the features of a MAE encoder from digits without labels: killed, on two processes, and used."""

import json
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import timm
import torch
from safetensors.torch import load_file

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

# All that varies in training is on, so that all of it must come out the same.
TINY = ("--epochs", 1, "--views", 2, "--batch-size", 64, "--optimizer.base-lr", 2e-3, "--optimizer.warmup-epochs", 0.2)
TINY += ("--encoder.width", 24, "--encoder.depth", 2, "--encoder.heads", 2, "--drop-path", 0.3, "--average", 0.9)
TINY += ("--augmentation.erasing", 0.5, "--augmentation.rand-augment", "rand-m9-mstd0.5-inc1", "--log-every", 1)
TINY += ("--knn.most-train", 256, "--knn.most-held-out", 128, "--evaluate-epochs", 0, "--checkpoint-steps", 7)
TINY += ("--workers", 1, "--tracker", "none")
STEPS = 45
KEPT_STEPS = 68  # of three epochs that show each image once
KEPT = 1e-4  # of a loss, of two cosines: rounding changes each by less than 2^-11, now up and now down
MEASURED = ("knn_top1", "linear_top1", "rankme", "feature_deviation")


class Scene(NamedTuple):
    """A dataset, a teacher, and a run that nothing disturbed."""

    data: Path
    teacher: Path
    run: Path


def start(runs: "Runs", scene: Scene, out: Path, *more: object, processes: int = 1, log: str = "") -> "Runs.Child":
    """What the others are compared with is started by a Python of its own."""
    script = runs.ROOT / "pretrain/distill.py"
    words = ("digits-features", "--data", scene.data, "--teacher", scene.teacher, "--out", out, *TINY, *more)
    command = runs.launched(script, *words, processes=processes) if processes > 1 else runs.python(script, *words)
    return runs.start(command, out.with_name(f"{out.name}-log{log}"), cold=out == scene.run)


def finish(
    runs: "Runs", scene: Scene, out: Path, *more: object, steps: int = STEPS, processes: int = 1, log: str = ""
) -> "Runs.Finished":
    """Run to the end; AssertionError unless it says that it is done, and leaves no process behind."""
    child = start(runs, scene, out, *more, processes=processes, log=log)
    finished = child.wait().expect(0)
    assert child.is_gone(), f"processes remain: {child.members()}"
    assert runs.read_exit(out) == {**runs.read_exit(out), "status": "done", "step": steps}
    return finished


@pytest.fixture(scope="module")
def scene(runs: "Runs", digits: Path, undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    run = tmp_path_factory.mktemp("features") / "run"
    found = Scene(digits, undisturbed, run)
    finished = finish(runs, found, run)
    assert finished.err == ""
    assert f"teacher: vit_tiny_patch16_224 of {undisturbed}, 0.1 M parameters, frozen; it sees 8 x 8" in finished.out
    assert "1,437 images of" in finished.out
    assert ", each shown 2 times, 1 epochs in 45 steps of 64; 0.0 M parameters" in finished.out
    assert "the teacher took " in finished.out
    return found


def kill_and_resume(runs: "Runs", scene: Scene, out: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"the moment comes from seed {seed}")
    wanted = random.Random(seed).randint(8, 35)
    run = start(runs, scene, out)
    run.wait_until(lambda: runs.last_step(out) >= wanted)
    run.send(signal.SIGKILL)
    run.wait().expect(-9)
    assert run.is_gone(), f"processes remain: {run.members()}"
    assert "going on from" in finish(runs, scene, out, log="-resumed").out


def test_a_run_that_is_killed_ends_as_one_that_is_not_and_two_processes_learn_the_same(
    runs: "Runs", scene: Scene, side_by_side: ThreadPoolExecutor, tmp_path: Path
) -> None:
    killed, shared = tmp_path / "killed", tmp_path / "shared"
    other = side_by_side.submit(finish, runs, scene, shared, processes=2)
    kill_and_resume(runs, scene, killed)
    assert runs.metrics(killed) == runs.metrics(scene.run)
    for file in ("model.safetensors", "average.safetensors", "optimizer.safetensors", "state.json"):
        assert (runs.newest(killed) / file).read_bytes() == (runs.newest(scene.run) / file).read_bytes(), file
    assert runs.contents(killed / "encoder") == runs.contents(scene.run / "encoder")
    other.result()
    found, expected = runs.losses(shared), runs.losses(scene.run)
    first = range(1, 16)
    assert [found[step] for step in first] == pytest.approx([expected[step] for step in first], abs=1e-5, rel=0)


def test_what_the_teacher_sees_in_two_views_is_kept(
    runs: "Runs", scene: Scene, side_by_side: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """The first two epochs show what they would without a cache, the third the first again."""
    more = ("--epochs", 3, "--views", 1, "--augmentation.erasing", 0)
    asked, kept, cache = tmp_path / "asked", tmp_path / "kept", tmp_path / "cache"
    other = side_by_side.submit(finish, runs, scene, asked, *more, steps=KEPT_STEPS)
    more += ("--cache-teacher.views", 2, "--cache-teacher.folder", cache)
    what = "the teacher's features of 2 views of 1,437 images"
    assert f"computing {what}, to keep them in " in finish(runs, scene, kept, *more, steps=KEPT_STEPS).out
    files = runs.contents(cache)
    assert f"{what} are there already: {cache}\n" in finish(runs, scene, kept, *more, steps=KEPT_STEPS, log="-2").out
    assert runs.contents(cache) == files
    other.result()
    expected, found = runs.losses(asked), runs.losses(kept)
    assert max(abs(found[step] - expected[step]) for step in range(1, 45)) < KEPT
    assert max(abs(found[step] - expected[step]) for step in range(46, KEPT_STEPS + 1)) > 10 * KEPT


def test_what_is_logged_and_left(runs: "Runs", scene: Scene) -> None:
    *steps, last = [json.loads(line) for line in (scene.run / "metrics.jsonl").read_text().splitlines()]
    assert last["step"] == STEPS
    assert all(last[name] > 0 for name in MEASURED)
    for line in steps:
        assert line["loss"] == pytest.approx(line["class_distance"] + line["patch_distance"], abs=1e-5)
        assert (line["teacher"] > 0) == (line["step"] < STEPS), "asked for the next batch"
    assert steps[-1]["loss"] < steps[0]["loss"] / 1.5
    written = json.loads((scene.run / "teacher.json").read_text())
    assert written["name"] == str(scene.teacher)
    trained = load_file(runs.newest(scene.run) / "model.safetensors")
    assert {name.split(".")[0] for name in trained} == {"encoder", "class_projection", "patch_projection"}


def test_the_encoder_is_the_average_without_projections_and_any_reader_takes_it(
    runs: "Runs", scene: Scene, tmp_path: Path
) -> None:
    exported = load_file(scene.run / "encoder/model.safetensors")
    average = load_file(runs.newest(scene.run) / "average.safetensors")
    expected = {name: tensor for name, tensor in average.items() if name.startswith("encoder.")}
    assert {f"encoder.{name}" for name in exported} == expected.keys()
    for name, tensor in exported.items():
        assert torch.equal(tensor, expected[f"encoder.{name}"]), name
    model = timm.create_model(f"local-dir:{scene.run / 'encoder'}", pretrained=True)
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 24)
    options = ("digits", "--data", scene.data, "--init", scene.run, "--out", tmp_path / "tuned", "--show-groups")
    command = runs.python(runs.ROOT / "finetune/classify.py", *options)
    assert f"weights of {scene.run / 'encoder'}, new: " in runs.start(command, tmp_path / "log").wait().expect(0).out


def test_a_teacher_that_is_not_there_is_named_and_leaves_no_run(runs: "Runs", scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused = start(runs, scene._replace(teacher=tmp_path / "nobody"), out).wait().expect(1)
    assert refused.err.startswith(f"distill.py: --teacher {tmp_path / 'nobody'}: expected a run folder")
    assert len(refused.err.splitlines()) == 1
    assert not out.exists()
