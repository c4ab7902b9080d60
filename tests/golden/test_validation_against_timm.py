"""A stock model folder gives on the sample images the logits that plain timm code gives, and the figures of those."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from timm.models import save_for_hf

from data_pipeline.chunks import chunks
from data_pipeline.config import ShardConfig
from data_pipeline.manifest import Manifest, read_manifest
from data_pipeline.rows import Part
from data_pipeline.sharding import shard_dataset
from finetune.ready_classifier import open_classifier
from finetune.validate_config import ValidateConfig
from finetune.validation import validate
from launch.console import Console
from pretrain.accuracy import measure
from pretrain.prediction_file import read_predictions
from pretrain.world import World

SAMPLES = Path(__file__).parents[3] / "shared/data/imagenet_samples/train.parquet"
pytestmark = pytest.mark.skipif(not SAMPLES.exists(), reason=f"{SAMPLES} is absent")
IMAGES, CLASSES = 24, 6
PREPARED: dict[str, dict[str, Any]] = {
    "test_resnet": {"crop_pct": 0.9, "interpolation": "bilinear", "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)},
    "test_vit": {},
    "test_efficientnet": {"crop_mode": "squash", "crop_pct": 1.0, "input_size": (3, 96, 128)},
    "test_convnext": {"crop_mode": "border", "crop_pct": 0.8, "mean": (0.1, 0.9, 0.5)},
}


@pytest.fixture(scope="module")
def world() -> World:
    return World("fp32")


@pytest.fixture(scope="module")
def photographs() -> list[bytes]:
    column = pq.read_table(SAMPLES, columns=["image"])["image"]
    return [column[number]["bytes"].as_py() for number in range(IMAGES)]


@pytest.fixture(scope="module")
def manifest(photographs: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    source = tmp_path_factory.mktemp("photographs") / "images"
    for number, data in enumerate(photographs):
        path = source / f"class {number % CLASSES}/{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    out = source.parent / "dataset"
    shard_dataset(ShardConfig(source=str(source), out=str(out)), Console(stream=io.StringIO()))
    return read_manifest(out)


def save_stock(folder: Path, name: str) -> None:
    """A folder as anyone writes it with timm, of random weights and of settings that are no model's default."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=CLASSES)
    described: Any = model.pretrained_cfg
    described.update(PREPARED[name])
    names = [f"class {number}" for number in range(CLASSES)]
    save_for_hf(model, str(folder), model_config={"label_names": names}, safe_serialization=True)


@torch.no_grad()
def by_timm(folder: Path, photographs: list[bytes]) -> torch.Tensor:
    """Plain timm code."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform: Any = create_transform(**resolve_data_config({}, model=model), is_training=False)
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in photographs]
    return model(torch.stack([transform(picture) for picture in pictures]))


@pytest.mark.parametrize("name", PREPARED)
def test_logits_of_the_sample_images(
    photographs: list[bytes], manifest: Manifest, world: World, tmp_path: Path, name: str
):
    save_stock(tmp_path / name, name)
    (split,) = manifest.splits
    part = Part(manifest, split)
    options = {"model": str(tmp_path / name), "data": str(manifest.folder), "split": split, "workers": 0}
    config = ValidateConfig(**options, out=str(tmp_path / "out"), batch_size=IMAGES)
    classifier = open_classifier(config, part, world)
    (piece,) = chunks(part, classifier.view, IMAGES)
    ours = classifier(piece.images)

    facts = [int(key.rpartition("/")[2].partition(".")[0]) for key in names_in_source(manifest, split)]
    theirs = by_timm(tmp_path / name, photographs)[facts]
    assert ours.std(dim=0).min() > 5e-3, "the images must matter"
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

    found = validate(config, world, Console(stream=io.StringIO()))
    expected = measure(theirs, piece.labels)
    assert (found["top1"], found["images"]) == (expected.top1, IMAGES)
    assert found["nll"] == pytest.approx(expected.nll, rel=1e-5)
    written = read_predictions(str(tmp_path / "out"), "--compare")
    assert written.predictions.best.tolist() == expected.predictions.best.tolist()
    np.testing.assert_allclose(written.predictions.nll, expected.predictions.nll, rtol=1e-4)


def names_in_source(manifest: Manifest, split: str) -> list[str]:
    """`class 3/09.jpg` of every sample, in order: they were shuffled when they were written."""
    (shard,) = manifest.split(split).shards
    return (Path(str(manifest.folder)) / shard.names).read_text().splitlines()
