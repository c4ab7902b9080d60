"""Damaged datasets: each message names the shard, the bytes and the command that repairs it; and the command does."""

import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.config import ShardConfig
from data_pipeline.manifest import DatasetError, Manifest, read_manifest
from data_pipeline.sharding import shard_dataset
from data_pipeline.storage import ShardReader
from launch.console import Console

ROOT = Path(__file__).parents[3]
SHARD = "train-000001.tar"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storage") / "data set"
    source = folder.parent / "images"
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8)
        (source / f"class {number % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(source / f"class {number % 3}" / f"{number}.jpg")
    config = ShardConfig(str(source), str(folder), workers=1, shard_size=3000)
    shard_dataset(config, Console(stream=io.StringIO()))
    return folder


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Manifest:
    shutil.copytree(whole, tmp_path / "a copy")
    return read_manifest(tmp_path / "a copy")


def read_all(manifest: Manifest) -> list[bytes]:
    split = manifest.split("train")
    reader = ShardReader(manifest, split)
    return [
        bytes(reader.image(number, row)[0]) for number, shard in enumerate(split.shards) for row in range(shard.samples)
    ]


def repair(message: str) -> None:
    """Run the command that a message ends with, as it stands."""
    found = re.search(r"rewrite it with: (python data_pipeline/shard\.py .*)$", message)
    assert found is not None, message
    words = shlex.split(found[1])
    subprocess.run([sys.executable, *words[1:]], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)


def test_samples_come_back_with_their_names(whole: Path) -> None:
    manifest = read_manifest(whole)
    assert len(read_all(manifest)) == 12
    reader = ShardReader(manifest, manifest.split("train"))
    first = manifest.split("train").shards[0].samples
    assert reader.name(1, 0) == f"train-{first:09d}"
    assert int(reader.index(1)[0]["label"]) in (0, 1, 2)


def test_a_cut_tar_is_named_and_repaired(dataset: Manifest, whole: Path) -> None:
    path = dataset.folder / SHARD
    path.write_bytes(path.read_bytes()[:700])
    listed = dataset.split("train").shards[1].bytes
    with pytest.raises(
        DatasetError, match=rf"shard {SHARD}: manifest lists {listed} bytes, found 700; rewrite"
    ) as error:
        read_all(dataset)
    repair(str(error.value))
    assert read_all(dataset) == read_all(read_manifest(whole))
    assert path.read_bytes() == (whole / SHARD).read_bytes()


def test_an_altered_image_is_named(dataset: Manifest) -> None:
    row = ShardReader(dataset, dataset.split("train")).index(1)[2]
    start, length = int(row["image_offset"]), int(row["image_length"])
    path = dataset.folder / SHARD
    data = bytearray(path.read_bytes())
    data[start + length // 2] ^= 1
    path.write_bytes(data)
    expected = (
        rf"shard {SHARD}: sample 2, bytes {start} to {start + length}, stage read: checksum [0-9a-f]{{16}} expected"
    )
    with pytest.raises(
        DatasetError, match=rf"{expected}, found [0-9a-f]{{16}} in 3 reads; rewrite it with: .*{SHARD}$"
    ):
        read_all(dataset)


def test_an_altered_index_is_named_and_repaired(dataset: Manifest, whole: Path) -> None:
    shard = dataset.split("train").shards[1]
    path = dataset.folder / shard.index
    data = bytearray(path.read_bytes())
    data[-90] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        DatasetError, match=rf"index {shard.index}: manifest lists sha256 .*, found .*; rewrite"
    ) as error:
        read_all(dataset)
    repair(str(error.value))
    assert path.read_bytes() == (whole / shard.index).read_bytes()


@pytest.mark.parametrize("what", ["shard", "index"])
def test_a_missing_file_is_named(dataset: Manifest, what: str) -> None:
    shard = dataset.split("train").shards[1]
    file = shard.file if what == "shard" else shard.index
    (dataset.folder / file).unlink()
    with pytest.raises(DatasetError, match=rf"{what} {file}: missing from .*; rewrite it with: .* --only {SHARD}$"):
        read_all(dataset)
