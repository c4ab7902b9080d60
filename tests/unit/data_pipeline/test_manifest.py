"""Reading and writing manifests: what is refused, what is computed of them, and that the format stays what it is."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.manifest import (
    Manifest,
    Shard,
    Split,
    Statistics,
    locate_sample,
    read_manifest,
    sample_starts,
    write_manifest,
)


def make_manifest(folder: Path, shards: int = 3) -> Manifest:
    """Without tars: 10, 11, 12, ... samples."""
    described = tuple(
        Shard(
            f"é-{number}.tar",
            10 + number,
            1000 * (number + 1),
            f"{number:064x}",
            f"{number}.npy",
            "ab" * 32,
            10 * number,
        )
        for number in range(shards)
    )
    statistics = Statistics((0.5,) * 3, (0.25,) * 3, (8, 9), (10, 11))
    made = {"command": "--source X", "options": {"b": [1, None], "a": 0.5}}
    return Manifest(folder, ("cat", "dög"), statistics, made, {"train": Split("jpg", described, class_counts=(1, 2))})


def altered(manifest: Manifest, change: Any, *, keep_checksum: bool = False) -> Path:
    """The folder, its manifest as `change` leaves the JSON."""
    write_manifest(manifest)
    path = manifest.folder / "manifest.json"
    assert isinstance(path, Path)
    content = json.loads(path.read_text())
    change(content)
    if not keep_checksum:
        del content["checksum"]
    path.write_text(json.dumps(content))
    return path.parent


def test_what_is_written_is_read_back_and_checked_by_the_same_rule_as_ever(tmp_path: Path):
    manifest = make_manifest(tmp_path)
    write_manifest(manifest)
    assert read_manifest(tmp_path) == manifest
    content = json.loads((tmp_path / "manifest.json").read_text())
    checksum = content.pop("checksum")
    assert checksum == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    # Of the first version that wrote them.
    assert checksum == "5ff17e9b32679b541984d91c5d14261a9cd5698bbaca882225f5b297d93a466d"
    assert (
        content["splits"]["train"]["fingerprint"] == "5900bd259e03d528fc1da7ed2aa19ed25f56a885b76363fd66727fb58967e4b2"
    )
    assert list(content["splits"]["train"]["shards"][0]) == list(Shard.__dataclass_fields__)


def test_sums_and_starts():
    split = make_manifest(Path("d")).split("train")
    assert (split.samples, split.bytes, split.present) == (33, 6000, 33)
    assert sample_starts(split).tolist() == [0, 10, 21, 33]
    shards, rows = locate_sample(sample_starts(split), [0, 9, 10, 32])
    assert (shards.tolist(), rows.tolist()) == ([0, 0, 1, 2], [0, 9, 0, 11])
    some = replace(split, withdrawn=(3, 4))
    assert some.present == 31
    assert some.fingerprint != split.fingerprint
    assert replace(some, withdrawn=()).fingerprint == split.fingerprint
    assert some.members(4).tolist() == [0, 1, 2, 5]
    assert sample_starts(Split("jpg", ())).tolist() == [0]


def test_bytes_that_changed_say_what_to_do(tmp_path: Path):
    manifest = make_manifest(tmp_path)

    def edit(content: dict[str, Any]) -> None:
        content["splits"]["train"]["shards"][1]["samples"] = 12

    with pytest.raises(ValueError, match="not what its checksum says: copy it again if it was damaged"):
        read_manifest(altered(manifest, edit, keep_checksum=True))
    with pytest.raises(ValueError, match="split 'train': the fingerprint does not match its shards: edited by hand"):
        read_manifest(altered(manifest, edit))

    def misspell(content: dict[str, Any]) -> None:
        content["splits"]["train"]["shards"][1]["filf"] = content["splits"]["train"]["shards"][1].pop("file")

    with pytest.raises(ValueError, match="not what its checksum says: copy it again if it was damaged"):
        read_manifest(altered(manifest, misspell, keep_checksum=True))
    with pytest.raises(ValueError, match=r"not a readable manifest \(TypeError.*filf"):
        read_manifest(altered(manifest, misspell))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("format", "other", "format is 'other', expected 'sherd-dataset'"),
        ("version", 1, "version 1 is older than 2"),
        ("version", 3, "version 3 is newer than 2"),
        ("splits", {"train": 5}, "not a readable manifest"),
        ("splits", [], "not a readable manifest"),
        ("splits", {"train": {"shards": None}}, "not a readable manifest"),
    ],
)
def test_what_is_no_manifest_of_this_version_says_so(tmp_path: Path, name: str, value: Any, message: str):
    with pytest.raises(ValueError, match=message):
        read_manifest(altered(make_manifest(tmp_path), lambda content: content.update({name: value})))


@pytest.mark.parametrize("text", ["", "[]", "5", '"checksum"', "{", "{}", '{"checksum": null}'])
def test_text_that_is_no_manifest_is_refused(tmp_path: Path, text: str):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="not a readable manifest"):
        read_manifest(tmp_path)
