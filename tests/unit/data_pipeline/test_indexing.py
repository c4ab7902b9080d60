"""Existing WebDataset tars, indexed where they are: what is found in them, left out of the index, and refused."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.augment import CenterCrop
from data_pipeline.config import ShardConfig
from data_pipeline.indexing import index_dataset
from data_pipeline.manifest import DatasetError, Manifest, open_index, read_manifest
from data_pipeline.rows import Part
from data_pipeline.storage import ShardReader
from data_pipeline.stream import Stream
from launch.console import Console


def picture(number: int, size: tuple[int, int] = (12, 9)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1_700_000_000
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(numbers: range) -> dict[str, bytes]:
    members = {}
    for number in numbers:
        members[f"cats/{number:04d}.json"] = json.dumps({"caption": f"number {number}"}).encode()
        members[f"cats/{number:04d}.jpeg"] = picture(number)
        members[f"cats/{number:04d}.cls"] = str(number % 3).encode()
    return members


def index(source: Path, out: Path, **options: Any) -> tuple[Manifest, str]:
    said = io.StringIO()
    config = ShardConfig(str(source), str(out), index_only=True, **({"workers": 1} | options))
    index_dataset(config, Console(stream=said))
    return read_manifest(out), said.getvalue()


def test_tars_elsewhere_stay_as_they_are(tmp_path: Path) -> None:
    before = {
        path: path.read_bytes()
        for path in (
            write_tar(tmp_path / "in/a.tar", samples(range(5))),
            write_tar(tmp_path / "in/b.tar", samples(range(5, 8)), tarfile.GNU_FORMAT),
        )
    }
    manifest, said = index(tmp_path / "in", tmp_path / "out")
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["a.tar", "b.tar"]
    split = manifest.split("train")
    assert (split.samples, split.extension, split.class_counts) == (8, "jpeg", (3, 3, 2))
    assert manifest.classes == ("0", "1", "2")
    assert manifest.tars == (tmp_path / "in").resolve()
    reader = ShardReader(manifest, split)
    assert [bytes(reader.image(1, row)[0]) for row in range(3)] == [picture(number) for number in (5, 6, 7)]
    assert [int(label) for label in open_index(manifest, split.shards[0])["label"]] == [0, 1, 2, 0, 1]
    assert "2 tars, indexed where they are" in said
    seen = {
        int(sample)
        for batch in Stream([Part(manifest, "train")], CenterCrop((8, 8)), batch_size=4, seed=0, epochs=1)
        for sample in batch.samples
    }
    assert seen == set(range(8))


def test_tars_in_place(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-000.tar", samples(range(4)))
    write_tar(tmp_path / "val-000.tar", samples(range(4, 6)))
    manifest, _ = index(tmp_path, tmp_path)
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 4, "validation": 2}
    assert json.loads((tmp_path / "manifest.json").read_text())["tars"] is None
    _, said = index(tmp_path, tmp_path)
    assert "finished already; nothing to do" in said
    (tmp_path / "train-000.tar").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"train-000\.tar: manifest lists \d+ bytes, found 0; bring the tar back"):
        index(tmp_path, tmp_path)


def test_what_cannot_be_shown_is_not_in_the_index(tmp_path: Path) -> None:
    members = samples(range(3)) | {"x.jpeg": picture(9)[:-90], "y.txt": b"no image"}
    write_tar(tmp_path / "in/a.tar", members)
    manifest, said = index(tmp_path / "in", tmp_path / "out")
    assert manifest.split("train").samples == 3
    (line,) = (tmp_path / "out/quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "x"
    assert "1 images are left out of the index" in said


def test_a_withdrawn_key_of_foreign_tars(tmp_path: Path) -> None:
    write_tar(tmp_path / "in/a.tar", samples(range(5)))
    manifest, _ = index(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out/withdrawn.txt").write_text("cats/0003  # asked for on Monday\n")
    again = read_manifest(tmp_path / "out")
    assert again.split("train").withdrawn == (3,)
    assert again.split("train").fingerprint != manifest.split("train").fingerprint


def test_labels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "in/a.tar", {"1.jpg": picture(1), "1.cls": b"cat"})
    with pytest.raises(ValueError, match=r"tar a\.tar: 1\.cls holds 'cat', expected the number of a class; .*--labels"):
        index(tmp_path / "in", tmp_path / "out")
    manifest, _ = index(tmp_path / "in", tmp_path / "other", labels="none")
    assert manifest.classes is None


def test_options_that_would_change_the_tars_are_refused() -> None:
    with pytest.raises(ValueError, match="--index-only leaves the tars as they are: drop --short-side"):
        ShardConfig("s", "o", index_only=True, short_side=256)


def test_a_cut_tar_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "in/a.tar", samples(range(3)))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"a\.tar: byte \d+"):
        index(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()
