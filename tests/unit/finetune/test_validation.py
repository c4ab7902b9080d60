"""What is evaluated as what, and what is refused, of small models on small images."""

import io
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.augment import CenterCrop
from data_pipeline.manifest import Manifest, write_manifest
from data_pipeline.rows import Part
from data_pipeline.stock_view import StockView
from finetune.ready_classifier import open_classifier
from finetune.validate_config import ValidateConfig
from finetune.validation import validate
from launch.console import Console
from pretrain.config import EncoderConfig
from pretrain.encoder import create_classifier, create_encoder
from pretrain.model_folder import save_model
from pretrain.pixels import Normalization
from pretrain.world import World

CONFIG = EncoderConfig("vit_tiny_patch16_224", (8, 8), (4, 4), width=24, depth=1, heads=2)
DIGITS = tuple(str(digit) for digit in range(10))


@pytest.fixture(scope="module")
def world() -> World:
    return World("fp32")


@pytest.fixture(scope="module")
def manifest(datasets: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """40 images of ten classes, one of which does not decode."""
    return on_disk(datasets.write_dataset(tmp_path_factory.mktemp("data") / "d", [25, 15], broken=[7]))


def on_disk(manifest: Manifest) -> Manifest:
    write_manifest(manifest)
    for name, split in manifest.splits.items():
        for number, shard in enumerate(split.shards):
            keys = "".join(f"{name}-{number}-{row}\n" for row in range(shard.samples))
            (manifest.folder / shard.names).write_text(keys)
    return manifest


def save(folder: Path, names: tuple[str, ...] | None = DIGITS) -> Path:
    """A folder as a run of sherd's writes it; its head's rows go with the classes' names, not with their numbers."""
    classes = len(names or ())
    model = create_classifier(CONFIG, classes=classes, pool="mean", drop_path=0.0) if names else create_encoder(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
        if names:
            rows = torch.randn(20, CONFIG.width or 0, generator=torch.Generator().manual_seed(2)) * 3
            head: Any = model.head
            head.weight.copy_(rows[[int(name) for name in names]])
            head.bias.zero_()
    normalization = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    save_model(folder, model, CONFIG, normalization, class_names=names, crop_fraction=0.9)
    return folder


def options(manifest: Manifest, model: Path, out: Path, **more: Any) -> ValidateConfig:
    places = {"model": str(model), "data": str(manifest.folder), "out": str(out), "split": "train"}
    return ValidateConfig(**places, workers=0, draws=100, **more)


def evaluated(config: ValidateConfig, world: World) -> tuple[dict[str, Any], str]:
    said = io.StringIO()
    return validate(config, world, Console(stream=said)), said.getvalue()


def test_what_is_written_and_said(manifest: Manifest, world: World, tmp_path: Path):
    model, out = save(tmp_path / "m"), tmp_path / "out"
    result, said = evaluated(options(manifest, model, out), world)
    assert json.loads((out / "evaluation.json").read_text()) == result
    assert (result["images"], result["undecodable"], result["split"]) == (39, 1, "train")
    assert result["fingerprint"] == manifest.split("train").fingerprint
    assert result["preparation"] == {
        "image_size": [8, 8],
        "by": "sherd",
        "crop_fraction": 0.9,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    }
    assert "images as sherd prepares them: 8 x 8, crop fraction 0.9, mean 0.1 0.2 0.3, std 0.4 0.5 0.6\n" in said
    assert f"39 images of {manifest.folder} [train], each once, 1 more do not decode\n" in said
    for name in ("reliability.png", "confusion.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    evaluated(options(manifest, model, out), world)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first


def test_figures_do_not_depend_on_how_a_model_orders_the_same_classes(manifest: Manifest, world: World, tmp_path: Path):
    plain, _ = evaluated(options(manifest, save(tmp_path / "m"), tmp_path / "a"), world)
    turned = save(tmp_path / "n", DIGITS[::-1])
    result, said = evaluated(options(manifest, turned, tmp_path / "b"), world)
    assert "another order: they are matched by name" in said
    assert result["classes"] == list(DIGITS[::-1])
    for name in ("top1", "top5", "mean_class_accuracy"):
        assert result[name] == plain[name]
    assert result["nll"] == pytest.approx(plain["nll"], rel=1e-6)
    assert result["confusion"] == np.array(plain["confusion"])[::-1, ::-1].tolist()
    by_number, _ = evaluated(options(manifest, turned, tmp_path / "c", classes="number"), world)
    assert by_number["nll"] != pytest.approx(plain["nll"], rel=1e-3)


def test_a_dataset_of_some_of_the_model_s_classes(manifest: Manifest, world: World, tmp_path: Path):
    more = tuple(str(number) for number in range(14))
    result, said = evaluated(options(manifest, save(tmp_path / "m", more), tmp_path / "a"), world)
    assert "the dataset has 10 of the model's 14 classes" in said
    assert len(result["confusion"]) == 14
    assert result["images_per_class"][10:] == [0] * 4


def test_preparations(manifest: Manifest, world: World, tmp_path: Path):
    model, part = save(tmp_path / "m"), Part(manifest, "train")

    def view(**more: Any) -> Any:
        return open_classifier(options(manifest, model, tmp_path / "out", **more), part, world).view

    stock = StockView((8, 8), "bicubic", 0.9, "center", (0.1, 0.2, 0.3))
    assert view() == view(preparation="sherd") == CenterCrop((8, 8), 0.9)
    assert view(preparation="timm") == stock
    described = json.loads((model / "config.json").read_text())
    assert described.pop("sherd")
    (model / "config.json").write_text(json.dumps(described))
    assert view() == stock, "of anyone else's folder"
    assert view(preparation="sherd") == CenterCrop((8, 8), 0.9)


def test_what_does_not_fit_is_refused(datasets: ModuleType, manifest: Manifest, world: World, tmp_path: Path):
    def refused(config: ValidateConfig, message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            evaluated(config, world)
        assert not (tmp_path / "out").exists()

    encoder, model = save(tmp_path / "e", None), save(tmp_path / "m")
    refused(
        options(manifest, encoder, tmp_path / "out"),
        f"--model {encoder}: expected a classifier, found an encoder without a head; measure its features with: python "
        f"finetune/probe.py small --init {encoder} --data {manifest.folder} --out PROBE",
    )
    other = ValidateConfig(model=str(model), data=str(manifest.folder), out=str(tmp_path / "out"))
    refused(other, f"--split test: {manifest.folder} has no such split, expected one of train")
    fewer = save(tmp_path / "f", ("0", "1"))
    refused(
        options(manifest, fewer, tmp_path / "out"), "--model has 2 classes (0, 1) and the dataset 10 (0, 1, 2, ...)"
    )
    wide = on_disk(datasets.write_dataset(tmp_path / "w", [4], array=(5, "uint16")))
    refused(
        options(wide, model, tmp_path / "out"),
        "w [train]: expected images of 3 channels, as many as the encoder takes, got 5; give an encoder for such "
        "images with --model",
    )
    deep = on_disk(datasets.write_dataset(tmp_path / "u", [4], array=(3, "uint16")))
    refused(
        options(deep, model, tmp_path / "out", preparation="timm"),
        "u [train]: timm prepares images of 3 channels of uint8 only, and these have 3 of uint16; pass --preparation "
        "sherd",
    )
