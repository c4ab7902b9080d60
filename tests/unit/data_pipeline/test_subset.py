"""So many images of each class: the number asked for, nested, by seed, and refused where a class has fewer."""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.config import ShardConfig
from data_pipeline.manifest import Manifest, read_manifest
from data_pipeline.sharding import shard_dataset
from data_pipeline.subset import labelled_samples, read_labels
from launch.console import Console


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("subset") / "digits"
    shard_dataset(ShardConfig(source="digits", out=str(folder), workers=1, shard_size=30_000), Console(rank=1))
    manifest = read_manifest(folder)
    assert len(manifest.split("train").shards) > 1
    return manifest


def test_so_many_of_each_class(digits: Manifest):
    labels = read_labels(digits, "train")
    members, rule = labelled_samples(digits, "train", 10, seed=0)
    assert members is not None
    assert np.bincount(labels[members]).tolist() == [10] * 10
    assert np.all(np.diff(members) > 0)
    assert rule.startswith("10-a-class-")


def test_fewer_are_among_more_and_seeds_differ(digits: Manifest):
    some, more, other = (labelled_samples(digits, "train", n, seed)[0] for n, seed in ((10, 0), (50, 0), (10, 1)))
    assert some is not None
    assert more is not None
    assert other is not None
    assert np.isin(some, more).all()
    assert not np.isin(some, other).all()


def test_all_that_have_a_label(digits: Manifest, tmp_path: Path):
    assert labelled_samples(digits, "train", None, seed=0) == (None, "")


def test_more_than_a_class_has(digits: Manifest):
    counts = np.bincount(read_labels(digits, "test"))
    fewest = int(counts.argmin())
    message = (
        rf"--labels 300 is above what a class has: '{fewest}' has {counts[fewest]} images in .*digits \[test\]; "
        rf"give at most {counts[fewest]}"
    )
    with pytest.raises(ValueError, match=message):
        labelled_samples(digits, "test", 300, seed=0)


def test_no_labels_at_all(tmp_path: Path):
    config = ShardConfig(source="digits", out=str(tmp_path / "d"), workers=1, labels="none")
    shard_dataset(config, Console(rank=1))
    with pytest.raises(ValueError, match="this dataset has no labels; shard images in class folders or a table"):
        labelled_samples(read_manifest(tmp_path / "d"), "train", None, seed=0)
