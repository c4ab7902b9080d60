"""The shards that `shard.py` writes, as webdataset, datasets and timm read them without any help."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.config import ShardConfig
from data_pipeline.manifest import open_index, read_manifest
from data_pipeline.sharding import shard_dataset
from launch.console import Console

ROOT = Path(__file__).parents[2]
CIFAR = ROOT.parent / "shared/data/cifar10/test.parquet"


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not CIFAR.exists():
        pytest.skip(f"{CIFAR} is absent")
    folder = tmp_path_factory.mktemp("cifar") / "out"
    environment = os.environ | {"HF_HOME": str(tmp_path_factory.mktemp("hf"))}
    words = [sys.executable, str(ROOT / "data_pipeline/shard.py"), "--source", str(CIFAR), "--out", str(folder)]
    subprocess.run(words, env=environment, check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def expected(cifar: Path) -> list[tuple[bytes, int]]:
    """Bytes and label of each sample in the order of the shards, taken from the parquet file."""
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(CIFAR).to_pylist()
    split = read_manifest(cifar).split("train")
    names = [
        name for shard in split.shards for name in (cifar / shard.index).with_suffix(".txt").read_text().splitlines()
    ]
    numbers = [int(name.removeprefix("train/")) for name in names]
    assert sorted(numbers) == list(range(10_000))
    return [(rows[number]["image"]["bytes"], rows[number]["label"]) for number in numbers]


def test_parquet_keeps_every_byte(cifar: Path, expected: list[tuple[bytes, int]]) -> None:
    manifest = read_manifest(cifar)
    assert manifest.classes is not None
    assert manifest.classes[:2] == ("airplane", "automobile")
    assert len(manifest.split("train").shards) == 10
    stored = []
    for shard in manifest.split("train").shards:
        data = (cifar / shard.file).read_bytes()
        for row in open_index(manifest, shard):
            start = int(row["image_offset"])
            stored.append((data[start : start + int(row["image_length"])], int(row["label"])))
    assert stored == expected


@pytest.mark.filterwarnings("ignore")  # those of other libraries
def test_webdataset_reads_the_shards(cifar: Path, expected: list[tuple[bytes, int]]) -> None:
    import webdataset

    shards = sorted(str(path) for path in cifar.glob("train-*.tar"))
    found = [(sample["jpg"], int(sample["cls"])) for sample in webdataset.WebDataset(shards, shardshuffle=False)]
    assert found == expected
    decoded = next(iter(webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpg", "cls")))
    assert (decoded[0].size, decoded[1]) == ((32, 32), expected[0][1])


@pytest.mark.filterwarnings("ignore")
def test_datasets_reads_the_shards(cifar: Path, expected: list[tuple[bytes, int]], tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    files = {"train": str(cifar / "train-*.tar")}
    calls: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        ((str(cifar),), {}),
        (("webdataset",), {"data_dir": str(cifar)}),
        (("webdataset",), {"data_files": files}),
    ]
    for arguments, options in calls:
        loaded = datasets.load_dataset(*arguments, **options, cache_dir=str(tmp_path))
        assert list(loaded) == ["train"]
        rows = loaded["train"].cast_column("jpg", datasets.Image(decode=False))
        assert [(row["jpg"]["bytes"], row["cls"]) for row in rows] == expected


@pytest.mark.filterwarnings("ignore")
def test_timm_reads_the_shards(cifar: Path, expected: list[tuple[bytes, int]]) -> None:
    import timm.data

    dataset = timm.data.create_dataset("wds/cifar", root=str(cifar), split="train", is_training=False, batch_size=10)
    assert len(dataset) == 10_000
    for number, (image, label) in enumerate(dataset):
        assert label == expected[number][1]
        if number % 500 == 0:
            with Image.open(io.BytesIO(expected[number][0])) as original:
                np.testing.assert_array_equal(np.asarray(image), np.asarray(original.convert("RGB")))
    assert number == 9_999


@pytest.mark.filterwarnings("ignore")
def test_datasets_finds_both_splits(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    folder = str(tmp_path / "digits")
    shard_dataset(ShardConfig("digits", folder, workers=1), Console(stream=io.StringIO()))
    for arguments, options in (((folder,), {}), (("webdataset",), {"data_dir": folder})):
        loaded = datasets.load_dataset(*arguments, **options, cache_dir=str(tmp_path / "cache"))
        assert {name: len(split) for name, split in loaded.items()} == {"train": 1437, "test": 360}
