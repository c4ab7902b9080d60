"""Another process loads what was exported, and any difference to the run's own weights is seen."""

import hashlib
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from data_pipeline.augment import CenterCrop
from data_pipeline.manifest import INDEX_DTYPE, Manifest, Shard, Split, Statistics
from data_pipeline.rows import Part
from finetune import proof
from finetune.formats import check_weights
from finetune.proof import compare, compare_preparations, largest_difference, prove
from finetune.proof_inputs import Inputs, drawn_pixels, gather_inputs, masking_noise
from finetune.published_model import PublishedModel
from finetune.stock_process import WITHOUT_SHERD, Answer
from pretrain.config import EncoderConfig
from pretrain.encoder import create_classifier, create_encoder, initialize_encoder
from pretrain.model_folder import save_model
from pretrain.pixels import Normalization

ENCODER = EncoderConfig("vit_tiny_patch16_224", (8, 8), (2, 2), width=24, depth=2, heads=2)
NORMALIZATION = Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
NAMES = ("a", "b", "c")


def png(number: int) -> bytes:
    """Ten by twelve pixels as smooth as a photograph's."""
    pixels = np.random.default_rng(number).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((10, 12), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def part(tmp_path: Path) -> Part:
    return write_images(tmp_path / "data", broken={1, 6})


def write_images(folder: Path, broken: set[int]) -> Part:
    """Two shards of five images; those that are broken hold bytes that are no image."""
    folder.mkdir()
    shards = []
    for number in range(2):
        images = [
            b"no image at all" if sample in broken else png(sample) for sample in range(5 * number, 5 * number + 5)
        ]
        index = np.zeros(5, INDEX_DTYPE)
        index["image_length"] = [len(image) for image in images]
        index["image_offset"][1:] = np.cumsum(index["image_length"])[:-1]
        index["image_hash"] = [xxhash.xxh3_64_intdigest(image) for image in images]
        index["width"], index["height"], index["orientation"] = 10, 12, 1
        np.save(folder / f"{number}.npy", index)
        (folder / f"{number}.tar").write_bytes(b"".join(images))
        digest = hashlib.sha256((folder / f"{number}.npy").read_bytes()).hexdigest()
        size = sum(map(len, images))
        shards.append(Shard(f"{number}.tar", 5, size, "0" * 64, f"{number}.npy", digest))
    statistics = Statistics((0.5,) * 3, (0.5,) * 3, (10, 12), (10, 12))
    manifest = Manifest(folder, NAMES, statistics, {"command": "--source x"}, {"test": Split("png", tuple(shards))})
    return Part(manifest, "test")


def classifier(seed: int = 0) -> VisionTransformer:
    model = create_classifier(ENCODER, classes=len(NAMES), pool="mean", drop_path=0.0)
    initialize_encoder(model, torch.Generator().manual_seed(seed))
    return model.eval()


def export(folder: Path, model: VisionTransformer) -> Path:
    save_model(folder, model, ENCODER, NORMALIZATION, class_names=NAMES if model.num_classes else None)
    return folder


def inputs_of(part: Part) -> Inputs:
    return gather_inputs(part, CenterCrop((8, 8)), NORMALIZATION)


def test_inputs_are_the_first_images_that_decode(part: Part):
    inputs = inputs_of(part)
    assert inputs.images.shape == (8, 3, 8, 8)
    assert inputs.stored == tuple(png(number) for number in (0, 2, 3, 4, 5, 7, 8, 9))
    few = gather_inputs(part, CenterCrop((8, 8)), NORMALIZATION, most=7)
    assert torch.equal(few.images, inputs.images[:5])
    assert few.stored == inputs.stored[:5]
    assert few.sha256 == hashlib.sha256(few.images.numpy().tobytes()).hexdigest() != inputs.sha256


def test_without_a_single_image_there_is_no_proof(tmp_path: Path):
    part = write_images(tmp_path / "data", broken={0, 1})
    with pytest.raises(ValueError, match=r"data \[test\]: none of its first 2 images decodes"):
        gather_inputs(part, CenterCrop((8, 8)), NORMALIZATION, most=2)


def test_pixels_that_show_nothing():
    for pixels in (torch.zeros(2, 3, 4, 3, dtype=torch.uint8), torch.zeros(2, 3, 4, 5, dtype=torch.uint16)):
        drawn = drawn_pixels(pixels)
        assert (drawn.shape, drawn.dtype) == (pixels.shape, pixels.dtype)
        assert drawn.float().max() > 0.9 * torch.iinfo(pixels.dtype).max
        assert torch.equal(drawn, drawn_pixels(pixels))
    drawn = drawn_pixels(torch.zeros(2, 3, 4, 3))
    assert drawn.dtype == torch.float32
    assert 0 <= drawn.min() < drawn.max() <= 1
    assert torch.equal(masking_noise(4, 9)[:2], masking_noise(4, 9)[:2])
    assert masking_noise(4, 9).unique().numel() == 36


def test_a_difference_is_weighed_by_what_differs():
    """1e-5 of values about 1, more of larger ones: float32 has seven digits."""
    one = {"logits": torch.tensor([[1.0, 100.0]])}
    near = {"logits": torch.tensor([[1.0, 100.0009]])}
    assert compare(near, one, "timm's", "the run", "-") == pytest.approx(9e-4, rel=0.02)
    for wrong in ([[1.00003, 100.0]], [[math.nan, 100.0]]):
        with pytest.raises(ValueError, match=r"timm's outputs differ by \S+ from those of the run on 1 images"):
            compare({"logits": torch.tensor(wrong)}, one, "timm's", "the run", "-")


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    proof.check_library("timm", "logits")
    monkeypatch.setattr(proof, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"^timm computes the proof, and is not installed here; pip install timm$"):
        proof.check_library("facebook", "logits")
    with pytest.raises(ValueError, match=r"^Transformers computes the proof, .*; pip install 'transformers>=4\.53'$"):
        proof.check_library("facebook", "prediction")


def test_differences():
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert largest_difference(a, a) == 0
    assert largest_difference(a, a - torch.tensor([[0.0, 0.0], [0.25, 0.0]])) == 0.25
    assert math.isnan(largest_difference(a, a * math.nan))


def test_preparations_are_compared_image_by_image():
    ours = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    theirs = torch.tensor([[1.0, 0.0], [0.0, 1.5], [4.0, 3.0]])
    found = compare_preparations(theirs, ours, has_classes=True)
    assert (found.largest_difference, found.top1_agrees) == (1.0, 2)
    assert found.least_cosine == pytest.approx(24 / 25)
    assert compare_preparations(theirs[:, None], ours[:, None], has_classes=False).top1_agrees is None


@pytest.mark.parametrize("package", ["launch", "data_pipeline", "pretrain.encoder", "finetune"])
def test_the_other_process_cannot_import_sherd(tmp_path: Path, package: str):
    code = f"{WITHOUT_SHERD}\nimport {package}"
    words = [sys.executable, "-I", "-c", code]
    finished = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert "sherd is kept out" in finished.stderr


@pytest.mark.parametrize("kind", ["classifier", "encoder"])
def test_what_was_exported_is_proven(tmp_path: Path, part: Part, kind: str):
    model = classifier()
    if kind == "encoder":
        model = create_encoder(ENCODER).eval()
        initialize_encoder(model, torch.Generator().manual_seed(1))
    folder = export(tmp_path / "m", model)
    inputs = inputs_of(part)
    found = prove("timm", folder, PublishedModel(model), inputs, NAMES if kind == "classifier" else None)
    assert found.largest_difference <= found.tolerance == 1e-5
    assert found.images == 8
    assert found.shape == ((8, 3) if kind == "classifier" else (8, 17, 24))
    assert found.compared == ("logits" if kind == "classifier" else "tokens")
    assert found.split_fingerprint == part.manifest.split("test").fingerprint
    assert found.inputs_sha256 == inputs.sha256
    assert found.stock_preparation is not None
    # timm crops after it has resized, and filters with Pillow: nearly the same, and not the same.
    assert found.stock_preparation.largest_difference > 1e-3
    assert 0.9 < found.stock_preparation.least_cosine < 1
    assert found.versions.keys() >= {"python", "torch", "timm"}
    assert found.files == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("config.json", "model.safetensors")
    }


def test_a_folder_that_timm_cannot_load_is_refused(tmp_path: Path, part: Part):
    folder = export(tmp_path / "m", classifier())
    described = json.loads((folder / "config.json").read_text())
    described["model_args"]["depth"] = 3
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"timm alone cannot use the exported model: .*; give the command that began"):
        prove("timm", folder, PublishedModel(classifier()), inputs_of(part), NAMES)


def answer(monkeypatch: pytest.MonkeyPatch, ours: torch.Tensor, names: Any = NAMES) -> None:
    """Let timm's process answer so."""
    told = Answer({"logits": ours}, {"logits": ours}, None if names is None else list(names), {})
    monkeypatch.setattr(proof, "ask_stock", lambda *_: told)


@pytest.mark.parametrize("error", [2e-5, -0.5, math.nan, math.inf])
def test_a_difference_is_refused_and_stated(tmp_path: Path, part: Part, monkeypatch: pytest.MonkeyPatch, error: float):
    model, inputs = classifier(), inputs_of(part)
    with torch.no_grad():
        logits = model(inputs.images)
    logits[5, 1] += error
    answer(monkeypatch, logits)
    stated = f"{abs(error):.1g}"[:3]
    with pytest.raises(ValueError, match=rf"differ by {stated}.* on 8 images, expected at most 1e-05; give the"):
        prove("timm", export(tmp_path / "m", model), PublishedModel(model), inputs, NAMES)


def test_a_weight_that_hardly_matters_is_still_the_runs(tmp_path: Path, part: Part, monkeypatch: pytest.MonkeyPatch):
    model, inputs = classifier(), inputs_of(part)
    folder = export(tmp_path / "m", model)
    with torch.no_grad():
        answer(monkeypatch, model(inputs.images))
        assert prove("timm", folder, PublishedModel(model), inputs, NAMES).largest_difference == 0
        check_weights(folder, PublishedModel(model))
        model.head.bias[1] += 1e-7
    with pytest.raises(ValueError, match=r"is not the run's: head\.bias differ from the newest checkpoint; give the"):
        check_weights(folder, PublishedModel(model))


def test_outputs_of_another_shape_are_not_broadcast(tmp_path: Path, part: Part, monkeypatch: pytest.MonkeyPatch):
    model, inputs = classifier(), inputs_of(part)
    answer(monkeypatch, torch.zeros(8, 1))
    message = r"timm's outputs .* are \{'logits': \(8, 1\)\}, those of .* \{'logits': \(8, 3\)\}"
    with pytest.raises(ValueError, match=message):
        prove("timm", export(tmp_path / "m", model), PublishedModel(model), inputs, NAMES)


@pytest.mark.parametrize("names", [None, ("b", "a", "c")])
def test_other_class_names_are_refused(
    tmp_path: Path, part: Part, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...] | None
):
    model, inputs = classifier(), inputs_of(part)
    with torch.no_grad():
        answer(monkeypatch, model(inputs.images), names)
    with pytest.raises(ValueError, match=r"config\.json names the classes .*, the run's dataset \['a', 'b', 'c'\]"):
        prove("timm", export(tmp_path / "m", model), PublishedModel(model), inputs, NAMES)
