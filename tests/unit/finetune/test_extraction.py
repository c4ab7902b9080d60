"""Features are computed once for all probes of a model and its images, and again where anything differs."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.augment import CenterCrop
from data_pipeline.config import ShardConfig
from data_pipeline.manifest import INDEX_DTYPE, Manifest, Shard, Split, Statistics, read_manifest
from data_pipeline.rows import Part
from data_pipeline.sharding import shard_dataset
from finetune import extraction
from finetune.extraction import Features, extract_features, feature_identity, labelled, open_feature_cache
from finetune.feature_cache import FeatureCache
from finetune.frozen_features import FrozenEncoder, freeze
from launch.console import Console
from pretrain.config import EncoderConfig
from pretrain.encoder import create_encoder, initialize_encoder
from pretrain.model_folder import save_model
from pretrain.model_source import find_source
from pretrain.pixels import Normalization
from pretrain.world import World

CONFIG = EncoderConfig("vit_tiny_patch16_224", (8, 8), (4, 4), width=16, depth=2, heads=2)
SAMPLES = np.arange(0, 600, 2)
VIEW = CenterCrop((8, 8))
Extract = Callable[..., Features]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("data") / "digits"
    return shard_dataset(ShardConfig(source="digits", out=str(folder), workers=1), Console(rank=1))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> FrozenEncoder:
    folder = tmp_path_factory.mktemp("model") / "encoder"
    model = create_encoder(CONFIG)
    initialize_encoder(model, torch.Generator().manual_seed(0))
    save_model(folder, model, CONFIG, Normalization((0.5,) * 3, (0.3,) * 3))
    return freeze(find_source(str(folder), "--init"), "mean", World("fp32"))


@pytest.fixture
def extract(encoder: FrozenEncoder, digits: Manifest) -> Extract:
    def features(cache: FeatureCache | None, manifest: Manifest = digits, samples: Any = SAMPLES) -> Features:
        part, console = Part(manifest, "train"), Console(stream=io.StringIO())
        found = extract_features(encoder, part, samples, view=VIEW, console=console, workers=0, cache=cache)
        assert found is not None
        return found

    return features


def cache_in(folder: Path) -> tuple[FeatureCache, list[str]]:
    said: list[str] = []
    return FeatureCache(folder, said.append), said


def assert_same(some: Features, other: Features) -> None:
    assert torch.equal(some.values, other.values)
    assert torch.equal(some.labels, other.labels)


def test_they_are_those_of_the_samples_in_order(extract: Extract, encoder: FrozenEncoder, digits: Manifest):
    found = extract(None)
    assert (found.values.shape, found.labels.shape) == ((300, 16), (300,))
    again = extract(None, samples=SAMPLES[:256])
    assert torch.equal(again.values, found.values[:256])
    index = np.load(digits.folder / digits.split("train").shards[0].index)
    assert found.labels.tolist() == index["label"][SAMPLES].tolist()


def test_a_second_time_no_image_is_read(
    extract: Extract, digits: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache, _ = cache_in(tmp_path / "cache")
    found = extract(cache)
    copy = tmp_path / "digits"
    shutil.copytree(str(digits.folder), copy)
    for tar in copy.glob("*.tar"):
        tar.unlink()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("images were asked for")

    monkeypatch.setattr(extraction, "extract", refuse)
    assert_same(extract(cache, read_manifest(copy)), found)
    with pytest.raises(AssertionError, match="images were asked for"):
        extract(None)
    with pytest.raises(AssertionError, match="images were asked for"):
        extract(cache, samples=SAMPLES[:-1])


def test_a_damaged_file_is_computed_anew_to_the_same_bits(extract: Extract, tmp_path: Path):
    cache, said = cache_in(tmp_path)
    found = extract(cache)
    (file,) = tmp_path.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-100] ^= 255
    file.write_bytes(data)
    assert_same(extract(cache), found)
    assert "not what was kept here (its checksum is another one)" in said[1]
    assert_same(extract(cache), found)
    assert len(said) == 3


def test_everything_that_features_depend_on_makes_another_name(
    encoder: FrozenEncoder, digits: Manifest, tmp_path: Path
):
    part = Part(digits, "train")
    plain = feature_identity(encoder, part, SAMPLES, VIEW)
    assert json.loads(json.dumps(plain)) == plain
    assert plain == feature_identity(encoder, Part(digits, "train"), SAMPLES.copy(), CenterCrop((8, 8)))
    weights, settings = tmp_path / "weights", tmp_path / "settings"
    for folder, name in ((weights, "model.safetensors"), (settings, "config.json")):
        shutil.copytree(encoder.source.path, folder)
        data = bytearray((folder / name).read_bytes())
        data[-3 if folder == weights else data.index(b"sherd")] ^= 1
        (folder / name).write_bytes(data)
    split = digits.split("train")
    withdrawn = replace(digits, splits={**digits.splits, "train": replace(split, withdrawn=(1,))})
    others = {
        "weights": feature_identity(
            replace(encoder, source=replace(encoder.source, path=weights)), part, SAMPLES, VIEW
        ),
        "config": feature_identity(
            replace(encoder, source=replace(encoder.source, path=settings)), part, SAMPLES, VIEW
        ),
        "features": feature_identity(replace(encoder, pieces=("token", "mean")), part, SAMPLES, VIEW),
        "split": feature_identity(encoder, Part(withdrawn, "train"), SAMPLES, VIEW),
        "samples": feature_identity(encoder, part, SAMPLES[::-1].copy(), VIEW),
        "view": feature_identity(encoder, part, SAMPLES, CenterCrop((8, 8), 0.875)),
        "precision": feature_identity(replace(encoder, world=World("bf16")), part, SAMPLES, VIEW),
    }
    for name, identity in others.items():
        changed = {field for field in plain if identity[field] != plain[field]}
        assert changed == ({name, "labels"} if name == "samples" else {name})
    assert plain["rows"] == 256
    assert {"torch", "timm", "pillow"} <= plain["versions"].keys()


def test_features_that_are_not_finite_are_refused(encoder: FrozenEncoder, digits: Manifest):
    broken = replace(encoder, source=replace(encoder.source, normalization=Normalization((0.5,) * 3, (0.0,) * 3)))
    message = r"\[train\]: features of 4 of 4 images are NaN or infinite, expected finite numbers; look at the weights"
    with pytest.raises(ValueError, match=message):
        extract_features(
            broken,
            Part(digits, "train"),
            SAMPLES[:4],
            view=VIEW,
            console=Console(rank=1),
            workers=0,
            cache=None,
        )


def test_where_features_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    console = Console(rank=1)
    monkeypatch.chdir(tmp_path)
    beside = open_feature_cache("auto", Path("runs/probe"), console)
    named = open_feature_cache("elsewhere", Path("runs/probe"), console)
    assert beside is not None
    assert named is not None
    assert beside.folder == tmp_path / "runs/.feature-cache"
    assert named.folder == Path("elsewhere")
    assert open_feature_cache("none", Path("runs/probe"), console) is None


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
