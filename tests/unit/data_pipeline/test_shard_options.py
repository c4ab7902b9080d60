"""What the options of `shard.py` make of a corpus: smaller images, filters, duplicates, hold-outs, annotations."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.config import ShardConfig
from data_pipeline.decode import read_strictly
from data_pipeline.dry_run import estimate
from data_pipeline.manifest import Manifest, open_index, read_manifest
from data_pipeline.sharding import shard_dataset
from data_pipeline.withdrawn import read_names
from launch.console import Console


def picture(number: int, size: tuple[int, int] = (24, 18), kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def array(number: int, shape: tuple[int, ...] = (9, 12, 13), dtype: str = "uint16") -> bytes:
    values = np.random.default_rng(number).integers(0, 60_000 if dtype == "uint16" else 256, shape).astype(dtype)
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def shard(source: Path, out: Path, **options: Any) -> tuple[Manifest, str]:
    """The manifest, and what was said."""
    said = io.StringIO()
    config = ShardConfig(str(source), str(out), **({"workers": 1} | options))
    shard_dataset(config, Console(stream=said))
    return read_manifest(out), said.getvalue()


def names(manifest: Manifest, split: str = "train") -> list[str]:
    return sorted(name for shard in manifest.split(split).shards for name in read_names(manifest, shard))


def quarantine(folder: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    return {line["name"]: line["reason"] for line in lines}


def members(folder: Path, file: str = "train-000000.tar") -> dict[str, bytes]:
    with tarfile.open(folder / file) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]


def test_a_short_side_makes_larger_images_smaller_and_keeps_the_others(tmp_path: Path) -> None:
    files = {"large.jpg": picture(1, (90, 60)), "small.jpg": picture(2, (20, 18)), "large.png": picture(3, kind="PNG")}
    manifest, said = shard(tree(tmp_path / "in", files), tmp_path / "out", short_side=18, quality=80)
    by_name = dict(zip(sorted(files), [None] * 3, strict=True))
    stored = {name: data for name, data in members(tmp_path / "out").items() if name.endswith(".jpg")}
    described = manifest.split("train").shards[0]
    for name, data in zip(read_names(manifest, described), stored.values(), strict=True):
        by_name[name] = data  # type: ignore[assignment]
    assert by_name["small.jpg"] == files["small.jpg"]
    facts, _ = read_strictly(by_name["large.jpg"])  # type: ignore[arg-type]
    assert (facts.extension, facts.width, facts.height) == ("jpg", 27, 18)
    assert by_name["large.png"] == files["large.png"]  # not larger than that: kept
    index = open_index(manifest, described)
    assert sorted(zip(index["width"].tolist(), index["height"].tolist(), strict=True)) == [(20, 18), (24, 18), (27, 18)]
    assert "1 images were encoded anew with a short side of 18 pixels" in said


def test_filters_leave_out_and_say_why(tmp_path: Path) -> None:
    files = {"tiny.jpg": picture(1, (5, 30)), "long.jpg": picture(2, (90, 16)), "huge.jpg": picture(3, (64, 64))}
    files["good.jpg"] = picture(4)
    manifest, said = shard(tree(tmp_path / "in", files), tmp_path / "out", min_side=8, max_aspect=4, max_pixels=4000)
    assert names(manifest) == ["good.jpg"]
    reasons = quarantine(tmp_path / "out")
    assert sorted(reasons) == ["huge.jpg", "long.jpg", "tiny.jpg"]
    assert "--min-side 8" in reasons["tiny.jpg"]
    assert manifest.made["dropped"] == {"min_side": 1, "max_pixels": 1, "max_aspect": 1}
    assert "quarantine.jsonl lists what was left out" in said


def test_the_same_bytes_twice_are_written_once(tmp_path: Path) -> None:
    one = picture(1)
    files = {"a/1.jpg": one, "a/2.jpg": picture(2), "b/3.jpg": one, "b/4.jpg": picture(4)}
    manifest, _ = shard(tree(tmp_path / "in", files), tmp_path / "out")
    assert names(manifest) == ["a/1.jpg", "a/2.jpg", "b/4.jpg"]
    assert quarantine(tmp_path / "out") == {"b/3.jpg": "same bytes as a/1.jpg, which has another class: a"}
    assert manifest.split("train").class_counts == (2, 1)
    kept, _ = shard(tmp_path / "in", tmp_path / "kept", duplicates="keep")
    assert kept.split("train").samples == 4


def test_images_of_the_test_split_that_are_trained_on_are_told_of(tmp_path: Path) -> None:
    files = {"train/1.jpg": picture(1), "train/2.jpg": picture(2), "test/1.jpg": picture(1)}
    manifest, said = shard(tree(tmp_path / "in", files), tmp_path / "out")
    assert (manifest.split("train").samples, manifest.split("test").samples) == (2, 1)
    assert "test/1.jpg" in said


def test_near_duplicates_are_listed_or_left_out(tmp_path: Path) -> None:
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)).resize((96, 96))
    files = {}
    for name, quality in (("one.jpg", 95), ("two.jpg", 92)):
        buffer = io.BytesIO()
        smooth.save(buffer, "JPEG", quality=quality)
        files[name] = buffer.getvalue()
    files["other.jpg"] = picture(5, (96, 96))
    manifest, said = shard(tree(tmp_path / "in", files), tmp_path / "out", near_duplicates="report")
    assert manifest.split("train").samples == 3
    (line,) = [json.loads(line) for line in (tmp_path / "out/near_duplicates.jsonl").read_text().splitlines()]
    assert {line["name"], line["other"]} == {"one.jpg", "two.jpg"}
    assert "near_duplicates.jsonl lists them" in said
    dropped, _ = shard(tmp_path / "in", tmp_path / "dropped", near_duplicates="drop")
    assert names(dropped) == ["one.jpg", "other.jpg"]
    assert quarantine(tmp_path / "dropped")["two.jpg"].startswith("looks like one.jpg")


def test_a_holdout_is_stable_as_images_are_added(tmp_path: Path) -> None:
    files = {f"{number}.jpg": picture(number, (9, 9)) for number in range(120)}
    manifest, _ = shard(tree(tmp_path / "in", files), tmp_path / "out", holdout=0.2)
    held_out = names(manifest, "validation")
    assert 10 < len(held_out) < 40
    assert sorted(held_out + names(manifest)) == sorted(files)
    tree(tmp_path / "in", {f"more/{number}.jpg": picture(number, (9, 9)) for number in range(120, 160)})
    more, _ = shard(tmp_path / "in", tmp_path / "more", holdout=0.2, seed=5)
    assert [name for name in names(more, "validation") if not name.startswith("more")] == held_out
    assert (tmp_path / "out/validation-000000.tar").is_file()


def test_take_stops_early(tmp_path: Path) -> None:
    files = {f"{part}/{number}.jpg": picture(number) for part in ("train", "test") for number in range(5)}
    manifest, _ = shard(tree(tmp_path / "in", files), tmp_path / "out", take=2)
    assert names(manifest) == ["train/0.jpg", "train/1.jpg"]
    assert names(manifest, "test") == ["test/0.jpg", "test/1.jpg"]


def test_sidecars_become_annotations_of_every_sample(tmp_path: Path) -> None:
    files = {"1.jpg": picture(1), "2.jpg": picture(2), "1.json": b'{"caption": "two \xc3\xa9tudes", "boxes": [[0, 1]]}'}
    manifest, _ = shard(tree(tmp_path / "in", files), tmp_path / "out")
    described = manifest.split("train").shards[0]
    stored = members(tmp_path / "out")
    found = [json.loads(data) for name, data in stored.items() if name.endswith(".json")]
    by_name = dict(zip(read_names(manifest, described), found, strict=True))
    assert by_name == {"1.jpg": {"boxes": [[0, 1]], "caption": "two études"}, "2.jpg": {}}
    assert manifest.to_json()["fields"] == {"image": ["jpg"], "annotations": ["json"]}
    plain, _ = shard(tmp_path / "in", tmp_path / "plain", metadata="none")
    assert {name.rpartition(".")[2] for name in members(tmp_path / "plain")} == {"jpg"}
    assert "annotations" not in plain.to_json()["fields"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_arrays_keep_their_channels_and_values(tmp_path: Path, dtype: str) -> None:
    files = {f"{number}.npy": array(number, dtype=dtype) for number in range(6)}
    files |= {"odd.npy": array(9, (9, 12, 4), dtype), "picture.jpg": picture(1), "cut.npy": array(1, dtype=dtype)[:-7]}
    manifest, said = shard(tree(tmp_path / "in", files), tmp_path / "out")
    split = manifest.split("train")
    assert (split.extension, split.channels, split.dtype, split.samples) == ("npy", 13, dtype, 6)
    assert set(quarantine(tmp_path / "out")) == {"odd.npy", "picture.jpg", "cut.npy"}
    assert f"6 samples as npy (13 x {dtype})" in said
    scale = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    pixels = np.concatenate([np.load(io.BytesIO(files[f"{number}.npy"])).reshape(-1, 13) for number in range(6)])
    np.testing.assert_allclose(manifest.statistics.mean, (pixels.astype(float) / scale).mean(0), rtol=1e-9)
    np.testing.assert_allclose(manifest.statistics.std, (pixels.astype(float) / scale).std(0), rtol=1e-6)


def test_class_counts_leave_out_what_is_broken(tmp_path: Path) -> None:
    files = {"a/1.jpg": picture(1), "a/2.jpg": picture(2), "b/3.jpg": picture(3), "b/4.jpg": picture(4)[:-90]}
    manifest, _ = shard(tree(tmp_path / "in", files), tmp_path / "out")
    assert manifest.split("train").class_counts == (2, 1)
    assert manifest.made["quarantined"] == 1


def test_only_needs_no_second_look_at_all_images(tmp_path: Path) -> None:
    files = {f"{number}.jpg": picture(number) for number in range(9)} | {"twin.jpg": picture(3)}
    shard(tree(tmp_path / "in", files), tmp_path / "out", shard_size=1000, short_side=12)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.tar")}
    assert len(whole) > 2
    (tmp_path / "out/train-000001.tar").unlink()
    (tmp_path / "out/__index__/train-000001.npy").unlink()
    _, said = shard(tmp_path / "in", tmp_path / "out", shard_size=1000, short_side=12, only=("train-000001.tar",))
    assert "examined" not in said
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.tar")} == whole


def test_a_dry_run_tells_and_writes_nothing(tmp_path: Path) -> None:
    files = {f"{number}.jpg": picture(number) for number in range(30)} | {"bad.jpg": picture(3)[:-90]}
    said = io.StringIO()
    config = ShardConfig(str(tree(tmp_path / "in", files)), str(tmp_path / "out"), workers=2, shard_size=9000)
    estimate(config, Console(stream=said))
    assert not (tmp_path / "out").exists()
    manifest, _ = shard(tmp_path / "in", tmp_path / "out", shard_size=9000)
    lines = said.getvalue().splitlines()
    (row,) = [line.split() for line in lines if line.startswith("train ")]
    size = sum(map(len, files.values()))
    assert row == ["train", "31", f"{size:,}", row[3], str(len(manifest.split("train").shards))]
    tars = int(row[3].replace(",", ""))
    assert tars == sum(shard.bytes - 1024 for shard in manifest.split("train").shards)
    assert f"to be read from the source: {2 * size:,} bytes, every image twice" in said.getvalue()
    assert "1 of the 31 images that were read are broken" in said.getvalue()
