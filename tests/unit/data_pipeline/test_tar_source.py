"""WebDataset tars as a source: which files are taken, what is listed of them, what is read, and what is said."""

import io
import json
import pickle
import tarfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.config import ShardConfig
from data_pipeline.location import MissingError
from data_pipeline.manifest import write_manifest
from data_pipeline.sources import Entry, Found
from data_pipeline.tar_source import TarSource, open_tars

Files = Iterable[tuple[str, bytes]]


def write_tar(path: Path, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def image(number: int) -> bytes:
    return b"\xff\xd8\xff" + bytes([number % 256]) * (400 + 37 * number)


def samples(*numbers: int) -> list[tuple[str, bytes]]:
    """Image, class, caption and facts of each."""
    return [
        member
        for number in numbers
        for member in (
            (f"{number:04d}.jpg", image(number)),
            (f"{number:04d}.cls", b"%d\n" % (number % 3)),
            (f"{number:04d}.txt", f"Nr. {number} ✓".encode()),
            (f"{number:04d}.json", json.dumps({"id": number, "boxes": [[1, 2.5]]}).encode()),
        )
    ]


def source_of(path: object, **options: Any) -> TarSource:
    return open_tars(ShardConfig(str(path), "out", **options))


def listed(source: TarSource) -> tuple[list[Found], tuple[str, ...]]:
    """What is found, and what is said at the end."""
    found, images = [], source.images()
    while True:
        try:
            found.append(next(images))
        except StopIteration as end:
            return found, end.value


def entry(found: Found) -> Entry:
    return Entry(found.name, -1, found.size, found.place, found.offset)


def test_images_labels_and_annotations(tmp_path: Path) -> None:
    write_tar(tmp_path / "b.tar", samples(2, 3))
    write_tar(tmp_path / "a.tar", samples(0, 1))
    source = source_of(tmp_path)
    outline = source.outline()
    assert outline.notes == ("images from member .jpg, labels from .cls, annotations from .json, .txt", "tars: train 2")
    assert (outline.classes, outline.annotated) == (None, True)
    found, notes = listed(source)
    assert notes == ()
    assert [(f.split, f.name, f.label, f.size) for f in found] == [
        ("train", f"{'ab'[i // 2]}.tar/{i:04d}", i % 3, len(image(i))) for i in range(4)
    ]
    worker: TarSource = pickle.loads(pickle.dumps(source))  # noqa: S301 - as processes are given it
    for number, one in enumerate(found):
        assert worker.read("train", entry(one)) == image(number)
        assert worker.read("train", entry(one), 7) == image(number)[:7]
        facts = {"txt": f"Nr. {number} ✓", "id": number, "boxes": [[1, 2.5]]}
        assert worker.annotations("train", entry(one)) == facts


def test_the_image_need_not_be_first_and_names_may_be_long(tmp_path: Path) -> None:
    key = "deep/" * 40 + "x"
    files = [
        (f"{key}.json", b'{"a": 1}'),
        (f"{key}.png", image(5)),
        (f"{key}.txt", b"t"),
        ("y.png", b""),
        ("y.txt", b"u"),
    ]
    source = source_of(write_tar(tmp_path / "x.tar", files))
    found, _ = listed(source)
    assert [one.name for one in found] == [f"x.tar/{key}", "x.tar/y"]
    assert [source.read("train", entry(one)) for one in found] == [image(5), b""]
    assert [source.annotations("train", entry(one)) for one in found] == [{"a": 1, "txt": "t"}, {"txt": "u"}]


def test_without_labels_and_annotations(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", samples(1, 2))
    found, notes = listed(source_of(path, labels="none"))
    assert [one.label for one in found] == [None, None]
    assert notes == ()
    assert "cls" not in source_of(path, labels="none").annotations("train", entry(found[0]))
    bare = source_of(path, metadata="none")
    assert bare.outline().notes[0] == "images from member .jpg, labels from .cls"
    assert bare.outline().annotated is False
    assert bare.annotations("train", entry(found[0])) == {}


def test_what_json_cannot_hold_is_left_out_and_counted(tmp_path: Path) -> None:
    files = [
        ("0.jpg", image(0)),
        ("0.pkl", b"text, but never unpickled"),
        ("0.pyd", b"c__builtin__\neval\n"),
        ("0.features.npz", b"PK"),
        ("0.seg.png", image(1)),
        ("0.mp4", b"\x00\xff\xfe"),
        ("0.meta", b"kept"),
        ("1.txt", b"alone"),
    ]
    source = source_of(write_tar(tmp_path / "x.tar", files))
    found, notes = listed(source)
    assert source.annotations("train", entry(found[0])) == {"meta": "kept"}
    assert notes == (
        "left out: 1 members .features.npz, which are no text",
        "left out: 1 members .mp4, which are no text",
        "left out: 1 members .pkl, which are no text",
        "left out: 1 members .pyd, which are no text",
        "left out: 1 members .seg.png, which are no text",
        "left out: 1 samples without an image",
    )


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("json", b"[1, NaN, 1e999]")], {"json": [1, None, None]}),
        ([("json", b"{broken")], {"json": "{broken"}),
        ([("json", b"[" * 100_000)], {"json": "[" * 100_000}),
        ([("json", rb'{"a": "\ud800"}')], {"json": r'{"a": "\ud800"}'}),
        ([("json", b'\xef\xbb\xbf{"txt": 1}'), ("txt", b"2")], {"txt": 1, "txt.txt": "2"}),
        ([("txt", b"2"), ("json", b'{"txt": 1}')], {"txt": "2", "json.txt": 1}),
        ([("boxes.json", b"[1]"), ("txt", b"\xff")], {"boxes.json": [1]}),
        ([("txt", b"x" * 1_000_001)], {}),
    ],
)
def test_annotations_of_every_sort(tmp_path: Path, members: Files, expected: dict[str, Any]) -> None:
    files = [("0.jpg", b"j"), *((f"0.{extension}", data) for extension, data in members)]
    source = source_of(write_tar(tmp_path / "x.tar", files))
    found, _ = listed(source)
    annotations = source.annotations("train", entry(found[0]))
    assert annotations == expected
    json.dumps(annotations, allow_nan=False, ensure_ascii=False).encode()


def test_which_member_is_the_image(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("0.left.png", b"l"), ("0.right.png", b"r"), ("1.npy", b"n")])
    with pytest.raises(
        ValueError, match=r"sample 0 has several images: \.left\.png, \.right\.png; .*--image-column EXT"
    ):
        source_of(path).outline()
    with pytest.raises(ValueError, match=rf"tar {path}: byte 0: sample 0 has several images"):
        list(source_of(path).images())
    source = source_of(path, image_column=".RIGHT.png")
    assert source.outline().notes[0] == "images from member .right.png"
    found, notes = listed(source)
    assert [source.read("train", entry(one)) for one in found] == [b"r"]
    assert "left out: 1 samples without an image" in notes
    with pytest.raises(
        ValueError, match=r"none of the first samples has a member \.tif; their members are \.left\.png"
    ):
        source_of(path, image_column="tif").outline()


def test_labels(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("0.jpg", b""), ("0.cls", b"-1"), ("0.index", b" 12\n"), ("1.jpg", b"")])
    assert [one.label for one in listed(source_of(path))[0]] == [-1, None]
    source = source_of(path, label_column="index")
    assert source.outline().notes[0] == "images from member .jpg, labels from .index, annotations from .cls"
    assert [one.label for one in listed(source)[0]] == [12, None]
    with pytest.raises(ValueError, match=r"--label-column species: no such member in the first samples, but \.cls"):
        source_of(path, label_column="species").outline()
    write_tar(path, [("0.jpg", b""), ("0.cls", b"tabby cat")])
    message = rf"tar {path}: byte 1024: 0\.cls holds 'tabby cat', expected the number of a class; .*--labels none"
    with pytest.raises(ValueError, match=message):
        list(source_of(path).images())


def test_tars_without_images(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", [("README", b""), ("0.txt", b"")])
    with pytest.raises(ValueError, match=r"none of the first samples has an image; their members are \.txt"):
        source_of(tmp_path).outline()


def test_a_tar_that_changes_after_it_was_listed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", samples(1, 2))
    source = source_of(path)
    found, _ = listed(source)
    path.write_bytes(path.read_bytes()[: found[1].offset + 5])
    with pytest.raises(OSError, match=rf"tar {path}: bytes \d+ to \d+: the file has become shorter"):
        source.read("train", entry(found[1]))
    with pytest.raises(ValueError, match=rf"tar {path}: byte \d+: "):
        source.annotations("train", entry(found[1]))


def test_only_as_many_as_asked_for(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", samples(0, 1))
    write_tar(tmp_path / "train-1.tar", samples(2, 3))
    write_tar(tmp_path / "val-0.tar", samples(4, 5, 6, 7))
    (tmp_path / "train-2.tar").write_bytes(b"never looked at")
    assert [(one.split, one.name) for one in source_of(tmp_path, take=3).images()] == [
        *(("train", f"{tar}.tar/{i:04d}") for i, tar in enumerate(("train-0", "train-0", "train-1"))),
        *(("validation", f"val-0.tar/{i:04d}") for i in (4, 5, 6)),
    ]


def test_a_dataset_folder_keeps_splits_and_classes_but_for_what_is_withdrawn(make_dataset: Any) -> None:
    manifest = make_dataset([3, 4], split="odd")
    for shard, numbers in zip(manifest.splits["odd"].shards, (range(3), range(3, 7)), strict=True):
        (manifest.folder / shard.names).write_text("".join(f"odd-{number:09d}\n" for number in numbers))
    write_manifest(manifest)
    write_tar(manifest.folder / "another.tar", samples(1))
    source = source_of(manifest.folder)
    assert source.outline().classes == tuple(map(str, range(10)))
    assert source_of(manifest.folder, labels="none").outline().classes is None
    assert [(one.split, one.name, one.label) for one in source.images()] == [
        ("odd", f"odd-{i // 3 if i < 6 else 1:06d}.tar/odd-{i:09d}", i) for i in range(7)
    ]
    (manifest.folder / "withdrawn.txt").write_text("odd-000000001\nodd-000000005\n")
    found, notes = listed(source_of(manifest.folder))
    assert [one.label for one in found] == [0, 2, 3, 4, 6]
    assert notes == ("left out: 2 samples that are withdrawn",)


@pytest.fixture
def store() -> Iterator[Any]:
    """A folder of a store in memory, and its file system."""
    import fsspec

    system = fsspec.filesystem("memory")
    yield system
    system.rm("/tar-source", recursive=True)


def test_a_store_is_listed_by_threads_and_in_order(tmp_path: Path, store: Any) -> None:
    for tar in range(20):
        path = write_tar(tmp_path / f"train-{tar:03d}.tar", samples(*range(tar * 10, tar * 10 + 10)))
        store.pipe(f"/tar-source/in/train-{tar:03d}.tar", path.read_bytes())
    here = [one._replace(place=0) for one in source_of(tmp_path).images()]
    for spelled in ("memory://tar-source", "memory://tar-source/", "memory://tar-source/in/train-{000..019}.tar"):
        source = source_of(spelled)
        found, notes = listed(source)
        assert notes == ()
        below = "in/" if "{" not in spelled else ""
        assert [one._replace(name=one.name.removeprefix(below), place=0) for one in found] == here
    for one in found[::37]:
        assert source.read("train", entry(one)) == image(int(one.name[-4:]))
        assert source.read("train", entry(one), 3) == b"\xff\xd8\xff"
        assert source.annotations("train", entry(one))["id"] == int(one.name[-4:])
    threads = threading.active_count()
    partly = source.images()
    assert [next(partly).name for _ in range(3)] == [one.name for one in found[:3]]
    partly.close()
    assert threading.active_count() <= threads


def test_what_fails_in_a_thread_is_raised_in_its_turn(tmp_path: Path, store: Any) -> None:
    whole = write_tar(tmp_path / "x.tar", samples(*range(10))).read_bytes()
    for tar, data in enumerate((whole, whole, whole[:-20_000], whole)):
        store.pipe(f"/tar-source/{tar}.tar", data)
    found = []
    with pytest.raises(ValueError, match=r"tar memory://tar-source/2\.tar: byte \d+: "):
        found.extend(one.name for one in source_of("memory://tar-source").images())
    assert found[:20] == [f"{tar}.tar/{number:04d}" for tar in (0, 1) for number in range(10)]
    with pytest.raises(MissingError, match=r"memory://tar-source/9\.tar: stage open"):
        list(source_of("memory://tar-source/{3,9}.tar").images())
