"""The lines of a card: what they name, and that they run as they stand, for every kind of model and of image."""

import contextlib
import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.classify_config import ClassifyConfig
from finetune.finished_run import FinishedRun
from finetune.publish_config import Format
from finetune.published_model import PublishedModel
from finetune.snippets import Place, run_lines, write_snippet
from pretrain.backbone_config import BackboneConfig
from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig, OptimizerConfig
from pretrain.encoder import create_classifier, create_encoder, initialize_encoder
from pretrain.mae_config import MaeConfig
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.model_folder import save_model
from pretrain.pixels import Normalization

if TYPE_CHECKING:
    from tests.unit.finetune.conftest import Finish

SIZES: dict[str, Any] = {"width": 24, "depth": 1, "heads": 2}
PLAIN = EncoderConfig("vit_tiny_patch16_224", (8, 8), (2, 2), **SIZES)
CLASSIFY = ClassifyConfig(
    encoder=BackboneConfig("vit_tiny_patch16_224", (8, 8), (2, 2), **SIZES),
    epochs=1.0,
    batch_size=8,
    optimizer=OptimizerConfig(warmup_epochs=0.1),
    data="d",
    init="i",
    out="o",
)
MAE = MaeConfig(
    encoder=PLAIN, epochs=1.0, batch_size=8, optimizer=OptimizerConfig(warmup_epochs=0.1), data="d", out="o"
)


def code_of(run: FinishedRun, model: Any, layout: Format, place: Place, *, by_class_token: bool = False) -> str:
    snippet = write_snippet(layout, run, PublishedModel(model), place, by_class_token=by_class_token)
    compile(snippet.code, "card", "exec")
    return snippet.code


def encoder(seed: int = 0) -> Any:
    model = create_encoder(PLAIN).eval()
    initialize_encoder(model, torch.Generator().manual_seed(seed))
    return model


def classifier() -> Any:
    model = create_classifier(PLAIN, classes=2, pool="token", drop_path=0.0).eval()
    initialize_encoder(model, torch.Generator().manual_seed(0))
    return model


def printed(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(code, "card", "exec"), {})
    return said.getvalue()


NAME = 'l\'été "1" \\n'


@pytest.mark.parametrize("by_class_token", [False, True])
def test_a_folder_of_any_name(
    finish: "Finish", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_class_token: bool
) -> None:
    run = finish(tmp_path / "run", MAE)
    model = encoder()
    save_model(tmp_path / NAME, model, PLAIN, Normalization((0.5,) * 3, (0.5,) * 3))
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "image.png")
    code = code_of(run, model, "timm", Place(NAME), by_class_token=by_class_token)
    assert ("tokens[:, 0]" in code) == by_class_token
    assert printed(code, tmp_path, monkeypatch) == "torch.Size([1, 24])\n"


def test_images_that_are_no_pictures(finish: "Finish", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finish(tmp_path / "run", MAE)
    splits = {
        name: dataclasses.replace(split, extension="npy", dtype="uint16") for name, split in run.manifest.splits.items()
    }
    run = dataclasses.replace(run, manifest=dataclasses.replace(run.manifest, splits=splits))
    model = encoder()
    save_model(tmp_path / "m", model, PLAIN, run.exported.normalization)
    pixels = np.arange(8 * 8 * 3, dtype=np.uint16).reshape(8, 8, 3) * 300
    np.save(tmp_path / "image.npy", pixels)
    code = code_of(run, model, "timm", Place("m")) + "print(features.sum())\n"
    with torch.no_grad():
        prepared = run.exported.normalization.normalize(torch.from_numpy(pixels)[None])
        expected = model.forward_features(prepared)[:, 1:].mean(dim=1).sum()
    assert "PIL" not in code
    assert float(printed(code, tmp_path, monkeypatch).split("tensor(")[1].rstrip(")\n")) == pytest.approx(
        float(expected), abs=1e-3
    )


def test_from_the_hub(finish: "Finish", tmp_path: Path) -> None:
    run, there = finish(tmp_path / "run", CLASSIFY), Place("m", "user/m", "v1")
    timms = code_of(run, classifier(), "timm", there)
    assert 'timm.create_model("hf-hub:user/m@v1", pretrained=True)' in timms
    assert "label_names'][number]" in timms
    transformers = code_of(run, classifier(), "transformers", there)
    assert 'AutoModelForImageClassification.from_pretrained("user/m", revision="v1")' in transformers
    facebooks = code_of(run, classifier(), "facebook", there)
    assert 'hf_hub_download("user/m", "model.pth", revision="v1")' in facebooks
    assert 'hf_hub_download("user/m", "config.json", revision="v1")' in facebooks
    assert 'from_pretrained("user/m")' in code_of(run, classifier(), "transformers", Place("m", "user/m"))


def test_an_autoencoder(finish: "Finish", tmp_path: Path) -> None:
    run = finish(tmp_path / "run", MAE)
    model = MaskedAutoencoder(encoder(), DecoderConfig(width=16, depth=1, heads=2), ObjectiveConfig())
    assert 'ViTMAEForPreTraining.from_pretrained("m")' in code_of(run, model, "transformers", Place("m"))
    facebooks = code_of(run, model, "facebook", Place("m"))
    assert 'not name.startswith(("mask_token", "decoder_"))' in facebooks
    assert "    num_classes=0,\n" in facebooks


def test_lines_that_do_not_run(tmp_path: Path) -> None:
    assert run_lines("print(1 + 1)", tmp_path) == "2\n"
    message = r"the lines of the model card do not run: ModuleNotFoundError: No module named 'pretrain': sherd is kept"
    with pytest.raises(ValueError, match=message):
        run_lines("import pretrain", tmp_path)
