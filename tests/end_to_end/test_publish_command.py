"""`publish.py` on real runs: what somebody without sherd can do with the folder, and what is never published."""

import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from finetune import publishing
from finetune.finished_run import read_finished
from finetune.publish_config import PublishConfig
from finetune.publishing import check_replaceable
from finetune.report_folders import read_folder
from finetune.report_page import build_page
from launch.console import Console
from pretrain.supervised_config import SupervisedConfig

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

FILES = {"README.md", "config.json", "figures/curves.png", "model.safetensors", "proof.json", "proof.safetensors"}
STEPS = 24


class Scene(NamedTuple):
    """Pre-trained, published, fine-tuned from what was published, and published again."""

    encoder: Path
    run: Path
    model: Path
    said: str


def publish(runs: "Runs", run: Path, out: Path, *more: object, cold: bool = False) -> "Runs.Finished":
    words = runs.python(runs.ROOT / "finetune/publish.py", "--run", run, "--out", out, *more)
    return runs.Child(words, out.with_name(f"{out.name}-log-{time.monotonic_ns()}"), cold=cold).wait()


@pytest.fixture(scope="module")
def scene(
    runs: "Runs",
    digits: Path,
    undisturbed: Path,
    stock_here: ModuleType,
    tmp_path_factory: pytest.TempPathFactory,
) -> Scene:
    folder = tmp_path_factory.mktemp("publish")
    encoder, run, model = folder / "encoder", folder / "run", folder / "my model"
    with pytest.MonkeyPatch.context() as patch:
        stock_here.install(patch)
        config = PublishConfig(run=str(undisturbed), out=str(encoder), license="cc-by-nc-4.0")
        publishing.publish(config, Console(rank=1))
    tiny = ("--labels", 20, "--epochs", 7.5, "--batch-size", 64, "--workers", 1)
    options = ("digits", "--data", digits, "--init", encoder, "--out", run, *tiny)
    runs.Child(runs.python(runs.ROOT / "finetune/classify.py", *options), folder / "classify").wait().expect(0)
    said = publish(runs, run, model, cold=True).expect(0).out
    return Scene(encoder, run, model, said)


@pytest.fixture
def copy(scene: Scene, tmp_path: Path) -> Path:
    """The fine-tuning run, to be damaged."""
    return shutil.copytree(scene.run, tmp_path / "copy")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def use_as_the_card_says(runs: "Runs", model: Path, digits: Path, tmp_path: Path) -> str:
    """Run the card's lines as they are, beside the folder and an image, where nothing of sherd is."""
    shutil.copytree(model, tmp_path / "somewhere" / model.name)
    with (digits / "test-000000.tar").open("rb") as tar:
        tar.seek(512)  # the first member is an image
        (tmp_path / "somewhere" / "image.png").write_bytes(tar.read(4096))
    card = (model / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    command = f"import os\nos.chdir({str(tmp_path / 'somewhere')!r})\n{code}\nimport sys\n"
    command += "assert not {'launch', 'data_pipeline', 'pretrain', 'finetune'} & sys.modules.keys()"
    printed = runs.Child([sys.executable, "-I", "-c", command], tmp_path / "use").wait().expect(0).out
    assert f"it printed\n\n```\n{printed}```" in card  # on the same image
    return printed


def test_a_classifier(runs: "Runs", scene: Scene, digits: Path, tmp_path: Path) -> None:
    found = digests(scene.model)
    assert found.keys() == FILES
    proof = read(scene.model / "proof.json")
    assert proof["files"] == {name: digest for name, digest in found.items() if name != "proof.json"}
    assert (scene.model / "model.safetensors").read_bytes() == (scene.run / "model/model.safetensors").read_bytes()
    assert (proof["compared"], proof["images"], proof["shape"]) == ("logits", 64, [64, 10])
    assert proof["largest_difference"] <= 1e-5
    assert proof["checkpoint"]["step"] == STEPS
    assert proof["split_fingerprint"] == read(digits / "manifest.json")["splits"]["test"]["fingerprint"]
    # The digits are as large as the model wants them: nothing is resized, so timm prepares the same pixels.
    assert proof["stock_preparation"]["top1_agrees"] == 64
    assert proof["stock_preparation"]["largest_difference"] < 1e-4
    names = use_as_the_card_says(runs, scene.model, digits, tmp_path).splitlines()
    assert len(names) == 5
    assert all(re.fullmatch(r"\d: \d+\.\d%", line) for line in names)


def test_the_card(scene: Scene) -> None:
    card = (scene.model / "README.md").read_text()
    data, evaluation = ModelCard(card).data, read(scene.run / "evaluation.json")
    assert (data.library_name, data.pipeline_tag) == ("timm", "image-classification")
    assert data.license == "cc-by-nc-4.0"
    assert "cc-by-nc-4.0: that of encoder, which training started from." in card
    assert data.eval_results is not None
    measured = {result.metric_name: result.metric_value for result in data.eval_results}
    assert measured["Top-1"] == pytest.approx(evaluation["top1"], abs=1e-6)
    assert measured["Top-5"] == pytest.approx(evaluation["top5"], abs=1e-6)
    assert "360 images of digits, split test, each once" in card
    assert "| Labels | 20 images a class, chosen by the seed |" in card
    assert f"| Epochs | 7.5, in {STEPS} steps |" in card
    assert "| Images | 200 |" in card
    for name in ("config.json", "model.safetensors"):
        assert digests(scene.model)[name] in card
    assert str(scene.run.parent) not in card


def test_what_it_says(scene: Scene) -> None:
    lines = scene.said.splitlines()
    assert lines[0] == f"{scene.run}: classifier of 10 classes, recipe digits, done at step {STEPS}"
    difference = read(scene.model / "proof.json")["largest_difference"]
    assert lines[-3:] == [
        f"done: {scene.model} holds README.md, config.json, figures/curves.png, model.safetensors, proof.safetensors, "
        "proof.json",
        f"largest difference to the checkpoint: {difference:.3g}, at most 1e-05",
        f"check it anywhere with: python finetune/publish.py --verify {scene.model}",
    ]


def test_an_encoder(runs: "Runs", scene: Scene, undisturbed: Path, digits: Path, tmp_path: Path) -> None:
    assert digests(scene.encoder).keys() == FILES | {"figures/reconstruction.png"}
    proof = read(scene.encoder / "proof.json")
    assert (proof["compared"], proof["shape"]) == ("tokens", [64, 17, 48])
    assert proof["largest_difference"] <= 1e-5
    assert proof["stock_preparation"]["top1_agrees"] is None
    assert proof["stock_preparation"]["least_cosine"] > 0.9999
    card = (scene.encoder / "README.md").read_text()
    knn = [line["knn_top1"] for line in runs.metrics(undisturbed) if "knn_top1" in line]
    assert f"| Top-1 of the 20 nearest neighbours | {knn[-1]:.2%} |" in card
    assert "128 images of digits, split test, each once" in card
    assert ModelCard(card).data.pipeline_tag == "image-feature-extraction"
    assert use_as_the_card_says(runs, scene.encoder, digits, tmp_path) == "torch.Size([1, 48])\n"


@pytest.fixture(scope="module")
def taught(
    runs: "Runs",
    digits: Path,
    undisturbed: Path,
    side_by_side: ThreadPoolExecutor,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Runs of pretrain/distill.py by name: of a student with a distillation token, of the teacher that it trained
    first, and of an encoder that learnt the features of the pre-trained one.
    """
    folder = tmp_path_factory.mktemp("taught")
    kinds = {
        "student": (
            "deit-ti4-cifar10 --teacher own --epochs 0.3 --encoder.image-size 8 8 --encoder.patch-size 2 2 "
            "--encoder.width 24 --encoder.depth 1 --encoder.heads 2 --precision fp32 --batch-size 64 --average 0.9 "
            "--own-teacher.encoder.name vit_tiny_patch16_224 --own-teacher.encoder.patch-size 2 2 --views 2 "
            "--own-teacher.encoder.width 24 --own-teacher.encoder.depth 1 --own-teacher.encoder.heads 2 "
            "--own-teacher.optimizer.warmup-epochs 0.1"
        ),
        "encoder": f"digits-features --teacher {undisturbed} --epochs 0.3 --encoder.depth 1 --average 0.9",
    }

    def train(name: str) -> None:
        options = (*kinds[name].split(), "--optimizer.warmup-epochs", 0.1, "--log-every", 1, "--workers", 1)
        words = runs.python(runs.ROOT / "pretrain/distill.py", *options, "--data", digits, "--out", folder / name)
        runs.Child(words, folder / f"{name}-log").wait().expect(0)

    list(side_by_side.map(train, kinds))
    return {name: folder / name for name in kinds} | {"teacher": folder / "student/teacher"}


@pytest.mark.usefixtures("stock_in_this_process")
def test_what_a_teacher_taught(taught: dict[str, Path], tmp_path: Path) -> None:
    def publish_it(name: str) -> str:
        publishing.publish(PublishConfig(run=str(taught[name]), out=str(tmp_path / name)), Console(rank=1))
        return (tmp_path / name / "README.md").read_text()

    names = ("student", "encoder")
    student, encoder = map(publish_it, names)
    for name, card in zip(names, (student, encoder), strict=True):
        assert read(tmp_path / name / "proof.json")["largest_difference"] <= 1e-5
        assert read(taught[name] / "teacher.json")["sha256"] in card
        assert str(taught[name].parent) not in card
    assert "the mean of those of two heads" in student
    assert r"| Teacher | vit\_tiny\_patch16\_224, trained first" in student
    assert r"| Teacher | run (vit\_tiny\_patch16\_224)" in encoder
    own = read_finished(str(taught["teacher"]), None, print)
    assert type(own.config) is SupervisedConfig
    assert own.exported.sha256 == read(taught["student"] / "teacher.json")["sha256"]
    copy = shutil.copytree(taught["encoder"], tmp_path / "copy")
    (copy / "teacher.json").unlink()
    with pytest.raises(ValueError, match=r"--run .*copy: teacher\.json is not there; restore the file: the card tells"):
        read_finished(str(copy), None, print)


def test_a_report_of_what_a_teacher_taught(taught: dict[str, Path]) -> None:
    page = build_page([read_folder(str(run)) for run in taught.values()], 1, lambda _: None)
    assert "Not shown" not in page
    for told in ("distillation · ", "feature distillation · ", "training from scratch · ", "same class as the teacher"):
        assert told in page, told


@pytest.mark.usefixtures("stock_in_this_process")
def test_publishing_again_replaces_what_publishing_wrote(scene: Scene, tmp_path: Path) -> None:
    out = shutil.copytree(scene.model, tmp_path / "my model")
    before = (out / "README.md").stat().st_ino
    publishing.publish(PublishConfig(run=str(scene.run), out=str(out)), Console(rank=1))
    assert (out / "README.md").stat().st_ino != before
    assert digests(out) == digests(scene.model)
    assert list(tmp_path.glob(".partial-*")) == []


def test_a_changed_weight_is_refused(runs: "Runs", scene: Scene, copy: Path, tmp_path: Path) -> None:
    path, out = copy / "model/model.safetensors", tmp_path / "m"
    tensors = load_file(path)
    tensors["blocks.1.mlp.fc1.bias"][3] += 0.01
    save_file(tensors, path)
    refused = publish(runs, copy, out).expect(1)
    stated = re.fullmatch(
        r"publish\.py: the exported model is not the run's: blocks\.1\.mlp\.fc1\.bias differ from the newest "
        r"checkpoint; give the command that began the run again: .*\n",
        refused.err,
    )
    assert stated is not None, refused.err
    assert not out.exists()
    # A folder that was published before stays as it was.
    shutil.copytree(scene.model, out)
    with pytest.raises(ValueError, match="the exported model is not the run's"):
        publishing.publish(PublishConfig(run=str(copy), out=str(out)), Console())
    assert digests(out) == digests(scene.model)
    assert list(tmp_path.glob(".partial-*")) == []


def test_an_unfinished_run_is_refused(runs: "Runs", copy: Path, tmp_path: Path) -> None:
    (copy / "exit.json").unlink()
    refused = publish(runs, copy, tmp_path / "m").expect(1)
    assert refused.err == (
        f"publish.py: --run {copy}: expected a finished run, found no exit.json: it still runs, or was killed; give "
        "the command that began it again, it goes on from its newest checkpoint\n"
    )
    assert not (tmp_path / "m").exists()


def preempt(run: Path) -> None:
    (run / "exit.json").write_text('{"status": "preempted", "step": 8}')


def export_nothing(run: Path) -> None:
    preempt(run)
    shutil.rmtree(run / "model")


def damage_the_checkpoint(run: Path) -> None:
    newest = run / "checkpoints" / (run / "checkpoints/latest").read_text().strip()
    earlier = shutil.copytree(newest, newest.with_name("step-00000008"))
    state = {**read(earlier / "state.json"), "step": 8}
    (earlier / "state.json").write_text(json.dumps(state))
    sums = read(earlier / "checksums.json")
    sums["state.json"] = hashlib.sha256((earlier / "state.json").read_bytes()).hexdigest()
    (earlier / "checksums.json").write_text(json.dumps(sums))
    (newest / "model.safetensors").write_bytes(b"")


def evaluate_otherwise(run: Path) -> None:
    (run / "evaluation.json").write_text(json.dumps({**read(run / "evaluation.json"), "step": 8}))


def lose_the_data(run: Path) -> None:
    (run / "config.json").write_text(json.dumps({**read(run / "config.json"), "data": "/gone"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (preempt, r"expected a finished run, found exit\.json: preempted; give the command that began it again"),
        (export_nothing, r"this run has no finished encoder \(exit\.json: preempted at step 8\)"),
        (damage_the_checkpoint, r"the run ended at step 24, but its newest whole checkpoint is of step 8; give the"),
        (evaluate_otherwise, r"evaluation\.json is of step 8, the model of step 24; restore the file, or remove"),
        (lose_the_data, r"dataset folder /gone is not there; say where it has been moved to: --data FOLDER"),
    ],
)
def test_a_run_that_is_not_whole_is_refused(copy: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(copy)
    with pytest.raises(ValueError, match=rf"--run {re.escape(str(copy))}: {message}"):
        read_finished(str(copy), None, print)


def test_data_that_were_moved(scene: Scene, copy: Path, digits: Path, tmp_path: Path) -> None:
    lose_the_data(copy)
    assert read_finished(str(copy), str(digits), print).manifest.folder == digits
    manifest = read(digits / "manifest.json")
    manifest["splits"]["train"] = manifest["splits"]["test"]
    del manifest["checksum"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"--data .*: not the images that .* was trained on: its split train has the"):
        read_finished(str(copy), str(tmp_path), print)


@pytest.mark.parametrize("inside", ["model", ""])
def test_what_is_no_run_is_refused(scene: Scene, inside: str) -> None:
    where = scene.run / inside if inside else scene.run.parent / "nothing"
    with pytest.raises(ValueError, match=r"--run .*: expected a run folder.*, found (a model folder alone|no such)"):
        read_finished(str(where), None, print)


def test_nothing_of_a_users_is_replaced(scene: Scene, tmp_path: Path) -> None:
    check_replaceable(tmp_path / "new")
    check_replaceable(tmp_path)
    out = shutil.copytree(scene.model, tmp_path / "m")
    check_replaceable(out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"--out .*m: not as .* notes\.txt is none of its files; .*, give another"):
        check_replaceable(out)
    (out / "notes.txt").unlink()
    (out / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"--out .*m: not as .* README\.md has been changed; .*, give another"):
        check_replaceable(out)
    (out / "proof.json").unlink()
    with pytest.raises(ValueError, match=r"found one without its proof\.json, with README\.md, config\.json"):
        check_replaceable(out)
    with pytest.raises(ValueError, match=r"found a file or a link; give another --out"):
        check_replaceable(out / "README.md")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"found a file or a link; give another --out"):
        check_replaceable(tmp_path / "link")
    for folder in (scene.run, scene.run / "model"):
        with pytest.raises(ValueError, match="without its proof"):
            check_replaceable(folder)
