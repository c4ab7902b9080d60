"""Folders of Transformers and of facebook's layout as models with heads: what is taken from them, what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from pretrain.backbone_config import BackboneConfig
from pretrain.facebook_folder import facebook_config
from pretrain.layout_writing import shared_tensors, to_facebook, to_transformers
from pretrain.model_source import ModelSource, find_source
from pretrain.pixels import IMAGENET, Normalization
from pretrain.preprocessor_file import Preparation
from pretrain.transformers_folder import transformers_config

SIZES = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 3}
PREPARED = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 18},
    "crop_size": {"height": 16, "width": 16},
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
}


def written(
    path: Path, *, classes: int = 2, prepared: Mapping[str, Any] | None = None, **changes: Any
) -> dict[str, torch.Tensor]:
    """A small model in a folder of Transformers, whose config.json is changed so."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=classes, **SIZES)
    names = ("cat", "dog")[:classes] or None
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(transformers_config(model, class_names=names) | changes))
    if prepared is not None:
        (path / "preprocessor_config.json").write_text(json.dumps(prepared))
    kind = "classifier" if classes else "encoder"
    save_file(to_transformers(shared_tensors(model), kind), path / "model.safetensors", metadata={"format": "pt"})
    return dict(model.state_dict())


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=f"^--model {path}: ") as caught:
        find_source(str(path), "--model")
    return str(caught.value)


def test_a_classifier_of_transformers_is_all_that_its_files_say(tmp_path: Path):
    tensors = written(tmp_path, prepared=PREPARED)
    source = find_source(str(tmp_path), "--model", like=BackboneConfig("vit_large_patch16_224"))
    assert source.backbone == BackboneConfig("vit_base_patch16_224", (16, 16), (4, 4), 3, 24, 1, 3)
    assert (source.classes, source.class_names, source.pool) == (2, ("cat", "dog"), "token")
    assert (source.is_folder, source.is_described, source.is_ours) == (False, True, False)
    assert source.normalization == Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert source.preparation == Preparation("bicubic", 16 / 18, "center")
    assert source.weights == tmp_path / "model.safetensors"
    assert source.remarks == ()
    assert all(torch.equal(tensor, source.tensors()[name]) for name, tensor in tensors.items())


def test_a_classifier_whose_images_nobody_says_how_to_prepare_is_refused_and_an_encoder_is_not(tmp_path: Path):
    written(tmp_path / "a")
    assert refusal(tmp_path / "a") == (
        f"--model {tmp_path / 'a'}: expected preprocessor_config.json beside config.json, which says how its images "
        "are prepared, found none; write it there with the save_pretrained of the image processor that it was trained "
        "with"
    )
    written(tmp_path / "b", classes=0)
    source = find_source(str(tmp_path / "b"), "--model")
    assert (source.classes, source.pool, source.normalization) == (0, "own", IMAGENET)


def test_a_folder_without_weights_or_of_another_model_is_refused(tmp_path: Path):
    written(tmp_path, prepared=PREPARED, model_type="swin")
    assert "a swin of Transformers, expected one of vit, deit, vit_mae" in refusal(tmp_path)
    written(tmp_path, prepared=PREPARED, hidden_act="gelu_new")
    assert "its blocks have the activation gelu_new, expected gelu" in refusal(tmp_path)
    written(tmp_path, prepared=PREPARED)
    (tmp_path / "model.safetensors").unlink()
    assert "a folder without model.safetensors, pytorch_model.bin or model.pth, found config.json" in refusal(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        find_source(str(tmp_path), "--model")


def test_a_pooler_is_left_out_and_another_head_is_not(tmp_path: Path):
    tensors = written(tmp_path, classes=0)
    stored = to_transformers(tensors, "encoder")
    save_file({**stored, "pooler.dense.bias": torch.ones(24)}, tmp_path / "model.safetensors")
    assert find_source(str(tmp_path), "--model").tensors().keys() == tensors.keys()
    save_file({**stored, "classifier.dense.bias": torch.ones(24)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: classifier\.dense\.bias are of no head that is known;"):
        find_source(str(tmp_path), "--model").tensors()


def test_what_norms_add_otherwise_is_a_remark(tmp_path: Path):
    written(tmp_path, prepared=PREPARED, layer_norm_eps=1e-12)
    (remark,) = find_source(str(tmp_path), "--model").remarks
    assert remark.startswith("its norms add 1e-12 to the variance, here it is 1e-06: ")


def test_weights_alone_need_an_architecture_and_have_no_head(tmp_path: Path):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2, **SIZES)
    path = tmp_path / "deit.pth"
    torch.save({"model": to_facebook(shared_tensors(model))}, path)
    assert refusal(path) == (
        f"--model {path}: expected a folder with a timm model, or one of Transformers (config.json with its "
        "architecture or model_type), found weights alone; convert it first, with finetune/classify.py or timm"
    )
    like = BackboneConfig("vit_tiny_patch16_224", (16, 16), (4, 4), width=24, depth=1, heads=3)
    source = find_source(str(path), "--init", like=like)
    assert (source.classes, source.is_described, source.stated) == (0, False, None)
    assert source.tensors().keys() == model.state_dict().keys() - {"head.weight", "head.bias"}


def test_a_folder_of_facebooks_layout_says_its_classes(tmp_path: Path):
    model: Any = timm.create_model("vit_tiny_patch16_224", num_classes=2, global_pool="avg", **SIZES)
    config = facebook_config(model, class_names=("cat", "dog"))
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPARED))
    torch.save({"model": to_facebook(shared_tensors(model))}, tmp_path / "model.pth")
    source: ModelSource = find_source(str(tmp_path), "--model")
    assert (source.classes, source.class_names, source.pool) == (2, ("cat", "dog"), "mean")
    assert source.weights == tmp_path / "model.pth"
    assert source.tensors().keys() == model.state_dict().keys()
