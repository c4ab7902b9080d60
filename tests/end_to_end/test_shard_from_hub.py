"""`data_pipeline/shard.py --source user/name`, against a server that speaks as the Hub does."""

import importlib.util
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.manifest import Manifest, read_manifest

ROOT = Path(__file__).parents[2]
CLASSES = ("dog", "cat")  # not in the order of the alphabet
CARD = b"""---
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*}
  - {split: test, path: data/test-*}
dataset_info:
  features:
  - {name: image, dtype: image}
  - {name: label, dtype: {class_label: {names: {'0': dog, '1': cat}}}}
---
# Pets
"""


def load_stand_in() -> ModuleType:
    path = Path(__file__).with_name("hub_stand_in.py")
    spec = importlib.util.spec_from_file_location("end_to_end_hub_stand_in", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


STAND_IN = load_stand_in()


def encode(number: int, kind: str) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (12, 9, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


PETS = {
    "train": [(encode(number, "JPEG"), number % 2) for number in range(7)],
    "test": [(encode(number, "PNG"), number // 2) for number in range(4)],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A dataset repository as `push_to_hub` lays it out, without its card."""
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    path = tmp_path_factory.mktemp("parquet") / "split.parquet"
    found = {}
    for split, pets in PETS.items():
        columns = {
            "image": [{"bytes": image, "path": None} for image, _ in pets],
            "label": [label for _, label in pets],
        }
        datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
        found[f"data/{split}-00000-of-00001.parquet"] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def hub(files: dict[str, bytes]) -> Iterator[Any]:
    repositories = {
        "user/pets": STAND_IN.Repository(files | {"README.md": CARD}),
        "user/gated": STAND_IN.Repository(files, access="gated"),
        "user/private": STAND_IN.Repository(files, access="private"),
        "user/lost": STAND_IN.Repository(files),
    }
    hub = STAND_IN.HubStandIn({("dataset", name): repository for name, repository in repositories.items()})
    hub.routes.insert(0, ("GET", "/api/datasets/user/lost", break_off))
    with STAND_IN.serve(hub):
        yield hub


BROKEN_OFF = "a connection was broken off"


def break_off(hub: Any, _: object) -> None:
    hub.log.append(BROKEN_OFF)
    raise ConnectionAbortedError


@pytest.fixture
def environment(hub: Any, tmp_path: Path) -> dict[str, str]:
    """Nothing of the user's own dealings with the Hub, and an empty cache."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return ours | hub.environment | {"HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}


def shard(environment: dict[str, str], source: object, folder: Path, expected: int = 0) -> tuple[str, str]:
    """What was printed to stdout and stderr."""
    words = [sys.executable, str(ROOT / "data_pipeline/shard.py"), "--source", str(source), "--out", str(folder)]
    done = subprocess.run(
        [*words, "--workers", "1"], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == expected, f"{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


def stored(folder: Path, manifest: Manifest, split: str) -> list[tuple[bytes, int]]:
    """Image and label of each sample of a split, as anyone reads them from the tars."""
    samples = []
    for listed in manifest.split(split).shards:
        with tarfile.open(folder / listed.file) as tar:
            files = ((member.name, tar.extractfile(member)) for member in tar)
            contents = {name: file.read() for name, file in files if file is not None}
        extension = manifest.split(split).extension
        keys = [name.removesuffix(".cls") for name in contents if name.endswith(".cls")]
        samples += [(contents[f"{key}.{extension}"], int(contents[f"{key}.cls"])) for key in keys]
    return samples


def test_from_the_hub_as_from_the_same_files(
    hub: Any, environment: dict[str, str], files: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "pets"
    hub.log.clear()
    out, err = shard(environment, "user/pets", folder)
    assert "Hub dataset user/pets: train 7, test 4 images, 2 classes" in out
    assert err == ""
    manifest = read_manifest(folder)
    assert manifest.classes == CLASSES
    assert {name: (split.samples, split.extension) for name, split in manifest.splits.items()} == {
        "train": (7, "jpg"),
        "test": (4, "png"),
    }
    for split, pets in PETS.items():
        assert sorted(stored(folder, manifest, split)) == sorted(pets)
    fetched = [line.split("/")[-1] for line in hub.log if line.startswith("GET") and ".parquet" in line]
    assert sorted(fetched) == ["test-00000-of-00001.parquet 200", "train-00000-of-00001.parquet 200"]

    for name, content in files.items():
        path = tmp_path / "local" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    shard(environment | {"HF_HUB_OFFLINE": "1"}, tmp_path / "local", tmp_path / "from local")
    local = read_manifest(tmp_path / "from local")
    assert (local.splits, local.classes) == (manifest.splits, manifest.classes)
    for tar in folder.glob("*.tar"):
        assert tar.read_bytes() == (tmp_path / "from local" / tar.name).read_bytes()


def test_a_gated_dataset_with_the_token(environment: dict[str, str], tmp_path: Path) -> None:
    shard(environment | {"HF_TOKEN": STAND_IN.TOKEN}, "user/gated", tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert manifest.classes == CLASSES
    assert sorted(stored(tmp_path / "out", manifest, "train")) == sorted(PETS["train"])
    assert not [path for path in (tmp_path / "out").rglob("*.json") if STAND_IN.TOKEN in path.read_text()]


@pytest.mark.parametrize(
    "refused",
    [
        ("user/none", "", "Dataset 'user/none' doesn't exist on the Hub or cannot be accessed"),
        ("user/none", STAND_IN.TOKEN, "Dataset 'user/none' doesn't exist on the Hub or cannot be accessed"),
        ("user/private", "", "Dataset 'user/private' doesn't exist on the Hub or cannot be accessed"),
        ("user/gated", "", "Dataset 'user/gated' is a gated dataset on the Hub. You must be authenticated"),
        ("user/gated", "hf_mistyped", "Invalid credentials in Authorization header"),
        ("user/lost", "", "Server disconnected"),
    ],
)
def test_refused_in_one_line(
    environment: dict[str, str], hub: Any, tmp_path: Path, refused: tuple[str, str, str]
) -> None:
    name, token, reason = refused
    hub.log.clear()
    _, err = shard(environment | {"HF_TOKEN": token}, name, tmp_path / "out", expected=2)
    assert hub.log.count(BROKEN_OFF) == (name == "user/lost"), "asked once: the library's retries take 23 seconds"
    assert err.startswith(f"shard.py: --source {name}: no such file or folder here")
    assert reason in err
    assert err.endswith("Check the spelling; private and gated datasets need HF_TOKEN, a mirror HF_ENDPOINT\n")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
