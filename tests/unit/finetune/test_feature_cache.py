"""A file of features is what was kept under its name or nothing: damaged and foreign ones are not read."""

import os
import stat
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.feature_cache import FeatureCache

IDENTITY = {"weights": "abc", "features": ["mean"], "rows": 256}
TENSORS = {"values": torch.arange(12, dtype=torch.float32).reshape(4, 3), "labels": torch.tensor([0, 1, 1, 0])}


class Scene:
    def __init__(self, folder: Path) -> None:
        self.said: list[str] = []
        self.cache = FeatureCache(folder, self.said.append)

    @property
    def path(self) -> Path:
        return self.cache.path_of(IDENTITY)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "made" / "when it is written to")


def assert_read(scene: Scene) -> None:
    found = scene.cache.read(IDENTITY)
    assert found is not None
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_what_was_written_is_read_and_nothing_else(scene: Scene):
    assert scene.cache.read(IDENTITY) is None
    assert scene.said == []
    scene.cache.write(IDENTITY, TENSORS)
    assert scene.said == [f"kept for other probes, 0.0 MB: {scene.path}"]
    assert_read(scene)
    assert scene.cache.read({**IDENTITY, "rows": 128}) is None
    assert scene.cache.read(dict(reversed(IDENTITY.items()))) is not None
    assert [path.name for path in scene.cache.folder.iterdir()] == [scene.path.name]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(scene.path.stat().st_mode) == 0o666 & ~mask


def test_views_are_written_as_they_are_seen(scene: Scene):
    wide = torch.arange(40, dtype=torch.float32).reshape(4, 10)
    scene.cache.write(IDENTITY, {"values": wide[:, 2:5], "labels": TENSORS["labels"]})
    found = scene.cache.read(IDENTITY)
    assert found is not None
    assert torch.equal(found["values"], wide[:, 2:5])


@pytest.mark.parametrize("where", ["head", "values", "end"])
def test_a_damaged_file_is_not_read_but_replaced(scene: Scene, where: str):
    scene.cache.write(IDENTITY, TENSORS)
    data = bytearray(scene.path.read_bytes())
    if where == "end":
        data = data[:-5]
    else:
        data[3 if where == "head" else -50] ^= 1
    scene.path.write_bytes(data)
    assert scene.cache.read(IDENTITY) is None
    assert scene.said[-1].startswith(f"{scene.path}: not what was kept here (")
    assert scene.said[-1].endswith("); the features are computed anew")
    scene.cache.write(IDENTITY, TENSORS)
    assert_read(scene)


def test_a_foreign_file_under_the_name_is_not_read(scene: Scene):
    scene.cache.write({**IDENTITY, "weights": "def"}, TENSORS)
    scene.cache.path_of({**IDENTITY, "weights": "def"}).rename(scene.path)
    assert scene.cache.read(IDENTITY) is None
    assert "(it describes other features)" in scene.said[-1]
    save_file(load_file(scene.path), scene.path)  # by another program, which says nothing of what it holds
    assert scene.cache.read(IDENTITY) is None
    assert "(it describes other features)" in scene.said[-1]


def test_a_folder_that_cannot_be_written_is_said_and_no_error(tmp_path: Path):
    (tmp_path / "file").touch()
    scene = Scene(tmp_path / "file")
    scene.cache.write(IDENTITY, TENSORS)
    assert scene.said == [f"not kept for other probes: [Errno 17] File exists: '{tmp_path / 'file'}'"]
    assert scene.cache.read(IDENTITY) is None


def test_what_killed_writers_left_goes_after_a_day(scene: Scene):
    scene.cache.folder.mkdir(parents=True)
    old, new = scene.cache.folder / ".partial-old", scene.cache.folder / ".partial-new"
    old.touch()
    new.touch()
    os.utime(old, (0, time.time() - 100_000))
    scene.cache.write(IDENTITY, TENSORS)
    assert not old.exists()
    assert new.exists()
