"""Frozen features are timm's, of every kind of model folder; what cannot give them is refused."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from data_pipeline.manifest import INDEX_DTYPE, Manifest, Shard, Split, Statistics
from finetune.frozen_features import freeze, labelled
from pretrain.config import EncoderConfig
from pretrain.encoder import create_classifier, create_encoder
from pretrain.model_folder import ModelFolder, find_model, save_model
from pretrain.pixels import Normalization
from pretrain.world import World

CONFIG = EncoderConfig("vit_tiny_patch16_224", (8, 12), (4, 4), width=24, depth=2, heads=2)
NORMALIZATION = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
IMAGES = torch.randint(0, 256, (5, 8, 12, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def world() -> World:
    return World("fp32")


def write(folder: Path, model: VisionTransformer, config: EncoderConfig = CONFIG) -> ModelFolder:
    """A model folder with random weights, every one of which counts."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    names = tuple("abc") if model.num_classes else None
    save_model(folder, model, config, NORMALIZATION, class_names=names)
    return find_model(str(folder), "--init")


def loaded_by_timm(folder: Path) -> VisionTransformer:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert isinstance(model, VisionTransformer)
    return model


@pytest.mark.parametrize("kind", ["encoder", "token classifier"])
def test_features_are_those_of_timm(tmp_path: Path, world: World, kind: str):
    if kind == "encoder":
        source = write(tmp_path / "m", create_encoder(CONFIG))
    else:
        source = write(tmp_path / "m", create_classifier(CONFIG, classes=3, pool="token", drop_path=0.0))
    with torch.no_grad():
        tokens = loaded_by_timm(tmp_path / "m").forward_features(NORMALIZATION.normalize(IMAGES))
    mean, token = freeze(source, "mean", world), freeze(source, "token", world)
    assert torch.equal(mean(IMAGES), tokens[:, 1:].mean(dim=1))
    assert torch.equal(token(IMAGES), tokens[:, 0])
    assert (mean.description, token.description) == ("mean of patch tokens", "class token")
    assert (mean.size, mean.width) == ((8, 12), 24)
    assert not any(parameter.requires_grad for parameter in mean.model.parameters())
    assert not mean.model.training


def test_those_of_a_mean_pooled_classifier_are_what_its_head_saw(tmp_path: Path, world: World):
    source = write(tmp_path / "m", create_classifier(CONFIG, classes=3, pool="mean", drop_path=0.1))
    model = loaded_by_timm(tmp_path / "m")
    with torch.no_grad():
        tokens = model.forward_features(NORMALIZATION.normalize(IMAGES))
        expected = model.forward_head(tokens, pre_logits=True)
    frozen = freeze(source, "mean", world)
    assert torch.equal(frozen(IMAGES), expected)
    assert frozen.description == "mean of patch tokens after fc_norm"
    refusal = (
        f"--features token: {source.path} is a classifier by the mean of its patch tokens, without a norm for its "
        "class token; give --features mean, or the encoder that it was fine-tuned from"
    )
    with pytest.raises(ValueError, match=re.escape(refusal)):
        freeze(source, "token", world)


@pytest.mark.parametrize("pool", ["mean", "token"])
def test_a_batch_of_any_size_is_computed_in_pieces(tmp_path: Path, world: World, pool: Literal["mean", "token"]):
    frozen = freeze(write(tmp_path / "m", create_encoder(CONFIG)), pool, world)
    seen: list[int] = []
    frozen.model.patch_embed.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    many = IMAGES.repeat(110, 1, 1, 1)
    features = frozen(many)
    assert seen == [256, 256, 38]
    torch.testing.assert_close(features, frozen(IMAGES).repeat(110, 1))


def test_weights_of_another_model_are_refused(tmp_path: Path, world: World):
    source = write(tmp_path / "m", create_encoder(CONFIG))
    deeper = replace(source, encoder=replace(CONFIG, depth=3))
    with pytest.raises(
        ValueError, match=r"m/model\.safetensors does not fit the model: missing blocks\.2\..* and 7 more"
    ):
        freeze(deeper, "mean", world)


def write_dataset(folder: Path, labels: list[int], classes: tuple[str, ...] | None = ("a", "b")) -> Manifest:
    """A dataset of which only the index is there: one split, `train`, with these labels."""
    index = np.zeros(len(labels), INDEX_DTYPE)
    index["label"] = labels
    np.save(folder / "train-000000.npy", index)
    digest = hashlib.sha256((folder / "train-000000.npy").read_bytes()).hexdigest()
    shard = Shard("train-000000.tar", len(labels), 1, "0" * 64, "train-000000.npy", digest)
    statistics = Statistics((0.5,) * 3, (0.25,) * 3, (8, 8), (8, 8))
    made = {"command": "--source X"}
    return Manifest(folder, classes, statistics, made, {"train": Split("png", (shard,))})


def test_images_without_a_label_are_left_out(tmp_path: Path):
    assert labelled(write_dataset(tmp_path, [0, 1, 1]), "train", "--split").tolist() == [0, 1, 2]
    assert labelled(write_dataset(tmp_path, [0, -1, 1, -1]), "train", "--split").tolist() == [0, 2]


def test_a_dataset_without_labels_or_the_split_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"this dataset has no labels; shard images in class folders"):
        labelled(write_dataset(tmp_path, [-1], classes=None), "train", "--split")
    with pytest.raises(
        ValueError, match=r"--held-out test: .* has no such split, expected one of train; a probe needs"
    ):
        labelled(write_dataset(tmp_path, [0, 1]), "test", "--held-out")
    with pytest.raises(ValueError, match=r"--split train: no image of .* \[train\] has a label; name another split"):
        labelled(write_dataset(tmp_path, [-1, -1]), "train", "--split")
