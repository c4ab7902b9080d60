"""Tars, indexes, statistics, quarantine: the dataset folders that `shard.py` writes, and those it refuses."""

import io
import json
import os
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import xxhash
from PIL import ExifTags, Image

from data_pipeline.config import ShardConfig
from data_pipeline.manifest import INDEX_DTYPE, DatasetError, Manifest, open_index, read_manifest, write_manifest
from data_pipeline.sharding import shard_dataset
from launch.console import Console


def encode(number: int, kind: str = "JPEG", orientation: int = 1, size: tuple[int, int] = (12, 9)) -> bytes:
    random = np.random.default_rng(number)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    pixels = random.integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **({} if orientation == 1 else {"exif": exif}))
    return buffer.getvalue()


def tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def shard(source: Path, out: Path, **options: object) -> tuple[Manifest, str]:
    """The manifest, and what was said."""
    said = io.StringIO()
    config = ShardConfig(str(source), str(out), **({"workers": 1} | options))  # type: ignore[arg-type]
    return shard_dataset(config, Console(stream=said)), said.getvalue()


def test_tar_and_index_agree(tmp_path: Path) -> None:
    files = {f"{'ant' if i % 2 else 'wolf'}/{i}.jpg": encode(i, orientation=1 + i % 8) for i in range(9)}
    manifest, _ = shard(tree(tmp_path / "in", files), tmp_path / "out", shard_size=2000)
    assert manifest == read_manifest(tmp_path / "out")
    assert manifest.classes == ("ant", "wolf")
    split = manifest.split("train")
    assert (split.extension, split.samples) == ("jpg", 9)
    assert len(split.shards) == -(-sum(map(len, files.values())) // 2000) > 1
    seen = []
    for described in split.shards:
        index = open_index(manifest, described)
        assert index.dtype == INDEX_DTYPE
        data = (tmp_path / "out" / described.file).read_bytes()
        names = (tmp_path / "out" / described.index).with_suffix(".txt").read_text().splitlines()
        assert len(data) == described.bytes
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = tar.getmembers()
        assert [member.offset for member in members[::2]] == index["offset"].tolist()
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o444)}
        ends = [*index["offset"][1:].tolist(), len(data) - 1024]
        for row, name, image, label, end in zip(index, names, members[::2], members[1::2], ends, strict=True):
            assert row["offset"] + row["length"] == end
            stored = data[int(row["image_offset"]) :][: int(row["image_length"])]
            annotation = data[label.offset_data :][: label.size]
            assert stored == files[name]
            assert (image.offset_data, image.size) == (row["image_offset"], row["image_length"])
            assert image.name.removesuffix(".jpg") == label.name.removesuffix(".cls") == f"train-{len(seen):09d}"
            assert row["image_hash"] == xxhash.xxh3_64_intdigest(stored)
            assert row["annotation_hash"] == xxhash.xxh3_64_intdigest(annotation)
            number = int(Path(name).stem)
            assert row["label"] == int(annotation) == (0 if number % 2 else 1)
            assert row["orientation"] == 1 + number % 8
            assert (row["width"], row["height"]) == ((12, 9) if number % 8 < 4 else (9, 12))
            seen.append(name)
    assert sorted(seen) == sorted(files)


def test_without_labels_there_is_no_cls(tmp_path: Path) -> None:
    manifest, _ = shard(tree(tmp_path / "in", {"1.jpg": encode(1), "2.jpg": encode(2)}), tmp_path / "out")
    with tarfile.open(tmp_path / "out/train-000000.tar") as tar:
        assert tar.getnames() == ["train-000000000.jpg", "train-000000001.jpg"]
    index = open_index(manifest, manifest.split("train").shards[0])
    assert set(index["label"]) == {-1}
    assert set(index["annotation_hash"]) == {xxhash.xxh3_64_intdigest(b"")}
    assert manifest.classes is None
    assert "label" not in json.loads((tmp_path / "out/manifest.json").read_text())["fields"]


def stored_images(folder: Path) -> dict[str, bytes]:
    names = (folder / "__index__/train-000000.txt").read_text().splitlines()
    with tarfile.open(folder / "train-000000.tar") as tar:
        members = [member for member in tar.getmembers() if not member.name.endswith(".cls")]
        return {name: tar.extractfile(m).read() for name, m in zip(names, members, strict=True)}  # type: ignore[union-attr]


def test_a_majority_of_others_becomes_png_without_loss_and_upright(tmp_path: Path) -> None:
    files = {"1.png": encode(1, "PNG"), "2.png": encode(2, "PNG", 6), "3.jpg": encode(3, orientation=6)}
    files["4.webp"] = encode(4, "WEBP")
    manifest, said = shard(tree(tmp_path / "in", files), tmp_path / "out")
    assert manifest.split("train").extension == "png"
    stored = stored_images(tmp_path / "out")
    assert stored["1.png"] == files["1.png"]
    assert stored["2.png"] == files["2.png"]
    with Image.open(io.BytesIO(stored["3.jpg"])) as image:
        assert (image.format, image.size, image.getexif().get(ExifTags.Base.Orientation)) == ("PNG", (9, 12), None)
    names = (tmp_path / "out/__index__/train-000000.txt").read_text().splitlines()
    index = open_index(manifest, manifest.split("train").shards[0])
    assert dict(zip(names, index["orientation"], strict=True)) == {"1.png": 1, "2.png": 6, "3.jpg": 1, "4.webp": 1}
    assert "2 images that are not PNG were encoded as PNG" in said


def test_a_few_among_jpegs_keep_their_bytes(tmp_path: Path) -> None:
    files = {f"{i}.jpg": encode(i) for i in range(4)} | {"9.png": encode(9, "PNG")}
    manifest, said = shard(tree(tmp_path / "in", files), tmp_path / "out")
    assert manifest.split("train").extension == "jpg"
    assert stored_images(tmp_path / "out") == files
    assert manifest.made["foreign"] == 1
    assert "1 of 5 are not JPEG: kept byte for byte under .jpg; they decode slower" in said


def test_statistics_are_exact(tmp_path: Path) -> None:
    files = {f"train/{i}.png": encode(i, "PNG", size=(5 + i, 20 - i)) for i in range(6)}
    files["test/x.png"] = encode(50, "PNG", size=(300, 300))
    manifest, _ = shard(tree(tmp_path / "in", files), tmp_path / "out", shard_size=2000)
    pixels = np.concatenate(
        [
            np.asarray(Image.open(io.BytesIO(data))).reshape(-1, 3) / 255
            for name, data in files.items()
            if name.startswith("train")
        ]
    )
    np.testing.assert_allclose(manifest.statistics.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(manifest.statistics.std, pixels.std(0), rtol=1e-12)
    assert manifest.statistics.smallest == (5, 15)
    assert manifest.statistics.largest == (10, 20)


def test_broken_images_are_listed_and_left_out(tmp_path: Path) -> None:
    files = {f"a/{i}.jpg": encode(i) for i in range(4)}
    files |= {"a/cut.jpg": encode(7)[:-200], "a/none.jpg": b""}
    manifest, said = shard(tree(tmp_path / "in", files), tmp_path / "out", shard_size=1)
    assert manifest.split("train").samples == 4
    assert len(manifest.split("train").shards) == 4  # a shard of nothing is not written
    assert len(list((tmp_path / "out").glob("*.tar"))) == 4
    quarantine = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    quarantine.sort(key=lambda line: line["name"])
    assert [(line["split"], line["name"]) for line in quarantine] == [("train", "a/cut.jpg"), ("train", "a/none.jpg")]
    assert "not a whole JPEG" in quarantine[0]["reason"]
    assert "2 broken images left out" in said
    _, said = shard(tmp_path / "in", tmp_path / "out", shard_size=1)
    assert "finished already" in said


def test_nothing_but_broken_images(tmp_path: Path) -> None:
    tree(tmp_path / "in", {"1.jpg": b"x", "2.jpg": b"y"})
    with pytest.raises(ValueError, match=r"none of the 2 images of split train can be read; \d\.jpg: not a whole"):
        shard(tmp_path / "in", tmp_path / "out")


def test_names_that_are_no_text_and_hold_line_breaks(tmp_path: Path) -> None:
    names = [os.fsdecode(b"\xff\xfe.jpg"), "line\nbreak.jpg", "ünïcode.jpg"]
    shard(tree(tmp_path / "in", {name: encode(i) for i, name in enumerate(names)}), tmp_path / "out")
    lines = (tmp_path / "out/__index__/train-000000.txt").read_bytes().splitlines()
    assert sorted(lines) == sorted([b"\xff\xfe.jpg", b"line\\nbreak.jpg", "ünïcode.jpg".encode()])


def test_another_dataset_is_not_overwritten(tmp_path: Path) -> None:
    tree(tmp_path / "in", {"1.jpg": encode(1)})
    shard(tmp_path / "in", tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"holds a dataset made with other options: --seed 0 there, 7 here; give the same"
    ):
        shard(tmp_path / "in", tmp_path / "out", seed=7)
    tree(tmp_path / "in", {"2.jpg": encode(2)})
    with pytest.raises(ValueError, match=r"other images than when .* \(train 2 now, train 1 there\)"):
        shard(tmp_path / "in", tmp_path / "out")


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, {"in/1.jpg": encode(1), "out/thesis.tex": b"x"})
    with pytest.raises(ValueError, match=r"not empty and no dataset of ours: it holds thesis\.tex; give a new"):
        shard(tmp_path / "in", tmp_path / "out")
    with pytest.raises(ValueError, match="a file is there; expected a new or empty folder"):
        shard(tmp_path / "in", tmp_path / "out/thesis.tex")


def test_only_needs_a_finished_dataset_and_a_shard_of_it(tmp_path: Path) -> None:
    tree(tmp_path / "in", {"1.jpg": encode(1)})
    with pytest.raises(ValueError, match="holds no finished dataset; run without --only first"):
        shard(tmp_path / "in", tmp_path / "out", only=("train-000000.tar",))
    shard(tmp_path / "in", tmp_path / "out")
    with pytest.raises(ValueError, match=r"--only tran-000000: .* has no such shard. Did you mean train-000000\.tar\?"):
        shard(tmp_path / "in", tmp_path / "out", only=("tran-000000",))
    assert not (tmp_path / "out/.work").exists()


def test_only_keeps_the_old_file_when_the_source_has_changed(tmp_path: Path) -> None:
    data = encode(1, "PNG")
    chunk = data.index(b"IEND") - 4  # a comment of other bytes and the same length leaves the listing as it was
    comments = [chunk_of(b"tEXt", b"Comment\0" + text) for text in (b"one", b"two")]
    tree(tmp_path / "in", {"1.png": data[:chunk] + comments[0] + data[chunk:]})
    shard(tmp_path / "in", tmp_path / "out")
    before = (tmp_path / "out/train-000000.tar").read_bytes()
    tree(tmp_path / "in", {"1.png": data[:chunk] + comments[1] + data[chunk:]})
    with pytest.raises(ValueError, match="the source or the libraries have changed since; the old file is kept"):
        shard(tmp_path / "in", tmp_path / "out", only=("train-000000.tar",))
    assert (tmp_path / "out/train-000000.tar").read_bytes() == before
    assert not (tmp_path / "out/.work").exists()


def chunk_of(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def test_a_finished_dataset_with_a_short_file_names_the_repair(tmp_path: Path) -> None:
    tree(tmp_path / "in", {"1.jpg": encode(1)})
    shard(tmp_path / "in", tmp_path / "out")
    path = tmp_path / "out/train-000000.tar"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(
        DatasetError, match=r"manifest lists \d+ bytes, found \d+; rewrite it with: python .* --only train-0"
    ):
        shard(tmp_path / "in", tmp_path / "out")


def test_the_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest, _ = shard(tree(tmp_path / "in", {"a b/1.jpg": encode(1)}), tmp_path / "out")
    assert manifest.made["command"].startswith(f"--source {tmp_path / 'in'} --shard-size 256000000")
    again = Manifest(tmp_path, manifest.classes, manifest.statistics, manifest.made, manifest.splits)
    write_manifest(again)
    assert read_manifest(tmp_path) == again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "--workers is -1"),
        ({"shard_size": 0}, "--shard-size is 0"),
        ({"labels": "none", "label_column": "y"}, "contradict each other"),
        ({"source": ""}, "must not be empty"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShardConfig(**({"source": "s", "out": "o"} | options))  # type: ignore[arg-type]
