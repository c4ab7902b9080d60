"""The baseline on pixels is scikit-learn's nearest neighbour."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from data_pipeline.config import ShardConfig
from data_pipeline.manifest import read_manifest
from data_pipeline.sharding import shard_dataset
from finetune.pixel_neighbours import pixel_neighbour_accuracy
from launch.console import Console


def test_one_nearest_neighbour_of_the_digits(tmp_path: Path):
    shard_dataset(ShardConfig(source="digits", out=str(tmp_path / "d"), workers=1), Console(rank=1))
    found = pixel_neighbour_accuracy(read_manifest(tmp_path / "d"), "train", None, "test", (8, 8))
    values, labels = load_digits(return_X_y=True)
    pixels = (values.astype(np.int64) * 255 + 8) // 16
    expected = KNeighborsClassifier(1).fit(pixels[:1437], labels[:1437]).score(pixels[1437:], labels[1437:])
    assert found is not None
    assert abs(found - expected) < 2 / 360  # equal distances may be broken otherwise
