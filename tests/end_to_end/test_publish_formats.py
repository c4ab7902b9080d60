"""Every kind of model in every format, from real runs: loaded, compared, described, read back; or refused."""

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from finetune.finished_run import read_finished
from finetune.proof import hashes_in
from finetune.proof_record import parse_record, read_record, write_record
from finetune.publish_config import Format, PublishConfig
from finetune.publishing import publish
from finetune.uploading import upload
from finetune.verification import verify
from launch.console import Console
from pretrain.interchange import read_weights
from pretrain.layout_writing import shared_tensors
from pretrain.model_source import find_source

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

SMALL = "--encoder.image-size 8 8 --encoder.patch-size 2 2 --encoder.width 24 --encoder.heads 2"
TRAINED = {
    "mean": "finetune/classify.py digits --init {mae} --epochs 0.3 --pool mean",
    "token": "finetune/classify.py digits --init {mae} --epochs 0.3 --pool token",
    "deit": (
        f"finetune/classify.py digits --init none --epochs 0.3 --encoder.name deit_tiny_distilled_patch16_224 {SMALL} "
        "--encoder.depth 1 --pool own"
    ),
    "deit3": (
        f"finetune/classify.py digits --init none --epochs 0.3 --encoder.name deit3_small_patch16_224 {SMALL} "
        "--encoder.depth 2 --pool own"
    ),
}


@pytest.fixture(scope="module")
def trained(
    runs: "Runs",
    digits: Path,
    undisturbed: Path,
    side_by_side: ThreadPoolExecutor,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """A run of each kind by name."""
    folder = tmp_path_factory.mktemp("trained")

    def train(name: str) -> None:
        script, *words = TRAINED[name].format(mae=undisturbed).split()
        options = (*words, "--data", digits, "--out", folder / name, "--optimizer.warmup-epochs", 0.1, "--workers", 1)
        runs.Child(runs.python(runs.ROOT / script, *options), folder / f"{name}-log").wait().expect(0)

    list(side_by_side.map(train, TRAINED))
    return {"mae": undisturbed, **{name: folder / name for name in TRAINED}}


def config_of(run: Path, out: Path, layout: Format, **more: Any) -> PublishConfig:
    return PublishConfig(run=str(run), out=str(out), format=layout, **more)


@pytest.mark.usefixtures("stock_in_this_process")
@pytest.mark.parametrize(
    ("kind", "layout", "decoder"),
    [
        ("mae", "transformers", False),
        ("mae", "transformers", True),
        ("mae", "facebook", False),
        ("mae", "facebook", True),
        ("mean", "facebook", False),
        ("token", "timm", False),
        ("token", "transformers", False),
        ("token", "facebook", False),
        ("deit", "transformers", False),
        ("deit", "facebook", False),
        ("deit3", "facebook", False),
    ],
)
def test_a_format_that_can_hold_it(
    trained: dict[str, Path], tmp_path: Path, kind: str, layout: Format, decoder: bool
) -> None:
    out = tmp_path / "m"
    proof = publish(config_of(trained[kind], out, layout, decoder=decoder), Console(rank=1))
    assert proof.layout == layout
    assert proof.largest_difference <= 1e-5
    weights = "model.pth" if layout == "facebook" else "model.safetensors"
    described = {"config.json"} if layout == "timm" else {"config.json", "preprocessor_config.json"}
    figures = {"figures/curves.png", *({"figures/reconstruction.png"} if kind == "mae" else ())}
    assert read_record(out).proof.files.keys() == {weights, "README.md", "proof.safetensors", *described, *figures}
    if proof.stock_preparation is not None:  # of digits, which are as large as the model wants them
        assert proof.stock_preparation.largest_difference < 1e-4
    assert verify(str(out), Console(rank=1)) <= 1e-5
    check_what_is_read_back(trained[kind], out, decoder=decoder)


def check_what_is_read_back(run: Path, out: Path, *, decoder: bool) -> None:
    """To the bit, and with the same classes, by every command that takes a model."""
    finished = read_finished(str(run), None, print)
    if decoder:
        weights = read_weights(str(out), "--init-from")
        assert weights.has_decoder
        own, found = finished.rebuild_autoencoder().state_dict(), weights.tensors
    else:
        source = find_source(str(out), "--init")
        assert (source.classes, source.class_names) == (finished.exported.classes, finished.class_names)
        assert source.normalization.mean == pytest.approx(finished.exported.normalization.mean)
        assert source.backbone.size == finished.exported.backbone.size
        own, found = shared_tensors(finished.rebuild()), source.tensors()
    assert own.keys() == found.keys()
    assert all(torch.equal(own[name], found[name]) for name in own)


@pytest.mark.parametrize(
    ("kind", "decoder", "message"),
    [
        ("mean", False, r"no place for pooling of the patch tokens; publish it with --format timm$"),
        ("deit3", False, r"layer scale; publish it with --format timm$"),
        ("token", True, r"--decoder: only a masked autoencoder has one, and .* is no run of pretrain"),
    ],
)
def test_a_format_that_cannot(trained: dict[str, Path], tmp_path: Path, kind: str, decoder: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        publish(config_of(trained[kind], tmp_path / "m", "transformers", decoder=decoder), Console(rank=1))
    assert not (tmp_path / "m").exists()
    assert list(tmp_path.glob(".partial-*")) == []


@pytest.mark.usefixtures("stock_in_this_process")
def test_images_that_must_not_go_along(trained: dict[str, Path], tmp_path: Path) -> None:
    publish(config_of(trained["mae"], tmp_path / "m", "timm", share_images=False), Console(rank=1))
    record = read_record(tmp_path / "m")
    assert "figures/reconstruction.png" not in record.proof.files
    assert record.recorded_pixels == "random pixels"
    pixels = load_file(tmp_path / "m/proof.safetensors")["pixels"]
    assert pixels.float().std() > 60  # uniform from 0 to 255: the digits have a dark ground
    assert "reconstruction.png" not in (tmp_path / "m/README.md").read_text()
    assert verify(str(tmp_path / "m"), Console(rank=1)) <= 1e-5


@pytest.fixture(scope="module")
def model(trained: dict[str, Path], stock_here: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier for Transformers."""
    out = tmp_path_factory.mktemp("published") / "m"
    with pytest.MonkeyPatch.context() as patch:
        stock_here.install(patch)
        publish(config_of(trained["token"], out, "transformers"), Console(rank=1))
    return out


def test_verified_by_the_command(runs: "Runs", model: Path, tmp_path: Path) -> None:
    words = runs.python(runs.ROOT / "finetune/publish.py", "--verify")
    said = runs.Child([*words, str(model)], tmp_path / "log").wait().expect(0).out.splitlines()
    assert said[0] == f"{model}: 6 files, each as it was written (SHA-256)"
    assert re.fullmatch(
        r"computed 8 images \(the first of digits, split test, .*\) with python .* transformers 5.*", said[1]
    )
    assert re.fullmatch(
        r"verified: logits differ by \S+ at most from those of the checkpoint at step \d+, whose .*", said[2]
    )
    copy = shutil.copytree(model, tmp_path / "copy")
    content = bytearray((copy / "preprocessor_config.json").read_bytes())
    content[40] ^= 1
    (copy / "preprocessor_config.json").write_bytes(content)
    refused = runs.Child([*words, str(copy)], tmp_path / "log2").wait().expect(1)
    assert refused.err == (
        f"publish.py: {copy}: not as publish.py wrote it: preprocessor_config.json has been changed; get the folder "
        "anew\n"
    )


@pytest.mark.usefixtures("stock_in_this_process")
def test_other_outputs_are_found(model: Path, tmp_path: Path) -> None:
    """Also where the proof was made to fit the files: what is computed now is not what was recorded."""
    copy = shutil.copytree(model, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    tensors["classifier.bias"][3] += 1e-3
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    forge(copy)
    with pytest.raises(ValueError, match=r"Transformers' outputs differ by 0\.001 .* on 8 images, expected at most"):
        verify(str(copy), Console(rank=1))
    described = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**described, "num_hidden_layers": 3}))
    forge(copy)
    with pytest.raises(ValueError, match=r"copy: Transformers here cannot use it: .*; its card names the versions"):
        verify(str(copy), Console(rank=1))


def forge(folder: Path) -> None:
    """Write a proof that fits the files as they are."""
    record = parse_record((folder / "proof.json").read_bytes(), "-")
    files = {name: digest for name, digest in hashes_in(folder).items() if name != "proof.json"}
    write_record(folder, replace(record, proof=replace(record.proof, files=files)))


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"--verify no such folder: expected a folder that publish\.py has written, or"
    ):
        verify("no such folder", Console(rank=1))
    with pytest.raises(ValueError, match=r"no proof\.json, so publish\.py has not written this"):
        verify(str(tmp_path), Console(rank=1))


@pytest.fixture
def asked(hub: Any, tmp_path: Path) -> dict[str, str]:
    """Variables of a user of the stand-in for the Hub."""
    return {**hub.environment, "HF_TOKEN": "hf_stand_in", "HF_HOME": str(tmp_path / "home")}


def test_to_the_hub_and_back(
    runs: "Runs", trained: dict[str, Path], hub: Any, asked: dict[str, str], *, tmp_path: Path
) -> None:
    script, model = runs.ROOT / "finetune/publish.py", tmp_path / "m"
    words = runs.python(script, "--run", trained["mae"], "--out", model, "--push", "user/m", "--hub.tag", "v1")
    said = runs.Child(words, tmp_path / "push", asked, cold=True).wait().expect(0).out
    assert "the lines of its README.md ran from the Hub, as they stand there\n" in said
    assert said.endswith("check it anywhere with: python finetune/publish.py --verify user/m@v1\n")
    assert "hf_stand_in" not in said
    files = hub.repositories["model", "user/m"].files
    there = {path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*") if path.is_file()}
    assert {name: content for name, content in files.items() if name != ".gitattributes"} == there
    assert b'timm.create_model("hf-hub:user/m@v1", pretrained=True)' in files["README.md"]
    verifying = runs.python(script, "--verify", "user/m@v1")
    said = runs.Child(verifying, tmp_path / "verify", asked, cold=True).wait().expect(0).out
    assert said.startswith(
        "user/m@v1: fetched from the Hub, unless its cache has it\nuser/m@v1: 6 files, each as it was"
    )


@pytest.fixture
def push(hub: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Upload the model in this process."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("launch.hub._client", lambda: HfApi(endpoint=hub.address, token="hf_stand_in"))

    def run(folder: Path = model, **options: Any) -> None:
        config = PublishConfig(run="r", out=str(folder), push="user/m", **options)
        upload(folder, config, Console())

    return run


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_what_goes_and_what_stays(
    hub: Any, push: Callable[..., None], model: Path, *, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(dry_run=True)
    told = capsys.readouterr().out
    assert told.startswith("8 images of the dataset go along, for --verify; --no-share-images leaves them out\n")
    assert re.search(r"^  new +[\d,]+  model\.safetensors$", told, re.MULTILINE)
    assert hub.repositories == {}
    push()
    repository = hub.repositories["model", "user/m"]
    assert "model.safetensors" in repository.files
    # What an earlier upload wrote and is there no more goes; what has not changed is not sent again.
    other = shutil.copytree(model, tmp_path / "m")
    (other / "figures/curves.png").unlink()
    forge(other)
    hub.log.clear()
    push(other)
    assert "figures/curves.png" not in repository.files
    assert [line for line in hub.log if line.startswith("PUT")] == []
    repository.files = {"weights.bin": b"somebody's"}
    with pytest.raises(ValueError, match=r"model user/m: it holds weights\.bin, which no finished upload of ours has"):
        push()
    assert repository.files == {"weights.bin": b"somebody's"}
