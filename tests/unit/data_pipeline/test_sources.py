"""What kind a source is; what digits and folder trees list and read, and what they say when they cannot."""

import io
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.config import ShardConfig
from data_pipeline.listing import Listings, write_listing
from data_pipeline.open_source import open_source
from data_pipeline.sources import Entry, Source


def image_bytes(number: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6 + number % 3, 5), (number * 7 % 256, 80, 160)).save(buffer, kind)
    return buffer.getvalue()


def tree(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(number))
    return folder


def opened(source: str | Path, **options: Any) -> Source:
    return open_source(ShardConfig(source=str(source), out="unused", **options), Path("unused"))


@pytest.fixture
def contents(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Listings]:
    """Lists a source: `contents(folder, labels="none")`."""

    def write(source: str | Path, **options: Any) -> Listings:
        place = opened(source, **options)
        labels = options.get("labels") != "none"
        folder = tmp_path_factory.mktemp("work") / "listing"
        return write_listing(folder, place, place.outline(), options.get("take"), labels, lambda _: None)

    return write


Contents = Callable[..., Listings]


def entries(listings: Listings, split: str = "train") -> list[Entry]:
    listing = listings.splits[split]
    return [listing.entry(number) for number in range(len(listing))]


def listed(listings: Listings) -> dict[str, list[tuple[str, int]]]:
    return {split: [(entry.name, entry.label) for entry in entries(listings, split)] for split in listings.splits}


def test_digits_are_scaled_and_split_by_writer(contents: Contents) -> None:
    from sklearn.datasets import load_digits

    source, listings = opened("digits"), contents("digits")
    assert {name: len(split) for name, split in listings.splits.items()} == {"train": 1437, "test": 360}
    assert listings.classes == tuple("0123456789")
    values, labels = (np.asarray(array) for array in load_digits(return_X_y=True))
    for split, number, original in (("train", 0, 0), ("train", 1436, 1436), ("test", 0, 1437), ("test", 359, 1796)):
        entry = listings.splits[split].entry(number)
        assert (entry.label, entry.name) == (labels[original], f"digits/{original:04d}")
        with Image.open(io.BytesIO(source.read(split, entry))) as image:
            assert (image.format, image.mode) == ("PNG", "L")
            np.testing.assert_allclose(np.asarray(image).ravel(), values[original] * 255 / 16, atol=0.5)
        assert source.read(split, entry, 8) == b"\x89PNG\r\n\x1a\n"
        assert source.annotations(split, entry) == {}


def test_digits_without_labels(contents: Contents) -> None:
    listings = contents("digits", labels="none", take=5)
    assert listings.classes is None
    assert {split: [entry.label for entry in entries(listings, split)] for split in listings.splits} == {
        "train": [-1] * 5,
        "test": [-1] * 5,
    }


def test_class_folders_without_splits(contents: Contents, tmp_path: Path) -> None:
    tree(tmp_path, "wolf/b.png", "wolf/deep/er/a.PNG", "ant/z.png")
    listings, source = contents(tmp_path), opened(tmp_path)
    assert listed(listings) == {"train": [("ant/z.png", 0), ("wolf/b.png", 1), ("wolf/deep/er/a.PNG", 1)]}
    assert listings.classes == ("ant", "wolf")
    for entry in entries(listings):
        assert entry.size == (tmp_path / entry.name).stat().st_size
        assert source.read("train", entry) == (tmp_path / entry.name).read_bytes()
        assert source.read("train", entry, 4) == b"\x89PNG"


def test_split_folders(contents: Contents, tmp_path: Path) -> None:
    tree(tmp_path, "val/ant/1.png", "train/wolf/2.png", "train/ant/3.png", "test/4.png", "VALID/bee/5.png")
    assert listed(contents(tmp_path)) == {
        "train": [("train/ant/3.png", 0), ("train/wolf/2.png", 2)],
        "validation": [("VALID/bee/5.png", 1), ("val/ant/1.png", 0)],
        "test": [("test/4.png", -1)],
    }
    without = contents(tmp_path, labels="none")
    assert (listed(without)["train"][1], without.classes) == (("train/wolf/2.png", -1), None)


def test_a_class_called_train_is_a_class(contents: Contents, tmp_path: Path) -> None:
    tree(tmp_path, "train/1.png", "plane/2.png")
    listings = contents(tmp_path)
    assert listings.classes == ("plane", "train")
    notes = opened(tmp_path).outline().notes
    assert notes == ("train/ lies beside plane/: taken as a folder like any other, not as a split",)


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_outside_the_class_folders_mean_no_labels(contents: Contents, tmp_path: Path, split: str) -> None:
    tree(tmp_path, "val/ant/1.png", "val/bee/3.png", "train/ant/4.png", f"{split}/2.png")
    listings = contents(tmp_path)
    split, name = {"train": ("train", "train/2.png"), "val": ("validation", "val/2.png")}[split]
    assert opened(tmp_path).outline().notes == (
        f"{split}: 1 images lie in no class folder, the first is {name}: the split is taken as unlabelled",
    )
    assert {entry.label for entry in entries(listings, split)} == {-1}
    assert listings.classes == (("ant",) if split == "validation" else ("ant", "bee"))


def test_other_and_hidden_files_are_left_out(contents: Contents, tmp_path: Path) -> None:
    tree(
        tmp_path,
        "a/1.png",
        "a/.2.png",
        ".hidden/3.png",
        "out/__index__/train-000000.npy",
        "a/4.webp",
        "a/notes.txt",
        "a/LICENSE",
        "a/no_extension",
    )
    (tmp_path / "a/LICENSE").write_text("Anyone may")
    np.save(tmp_path / "a/5.npy", np.zeros((2, 2, 5), np.uint16))
    listings = contents(tmp_path)
    assert [entry.name for entry in entries(listings)] == ["a/1.png", "a/4.webp", "a/5.npy", "a/no_extension"]
    outline = opened(tmp_path).outline()
    assert (outline.notes, outline.annotated) == (("2 files that are not images are left out",), False)


def test_links_are_followed_but_not_in_circles(contents: Contents, tmp_path: Path) -> None:
    tree(tmp_path / "real", "ant/1.png")
    tree(tmp_path / "elsewhere", "2.png")
    (tmp_path / "real/bee").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "real/ant/round").symlink_to(tmp_path / "real")
    (tmp_path / "real/ant/3.png").symlink_to(tmp_path / "elsewhere/2.png")
    (tmp_path / "real/ant/4.png").symlink_to(tmp_path / "nowhere")
    names = [entry.name for entry in entries(contents(tmp_path / "real"))]
    assert names == ["ant/1.png", "ant/3.png", "bee/2.png"]


def test_a_sidecar_file_describes_the_image_beside_it(contents: Contents, tmp_path: Path) -> None:
    tree(tmp_path, "a/1.png", "a/2.jpg", "a/bare", "a/3.png", "b/1.png")
    (tmp_path / "a/1.json").write_text('{"caption": "ein Bär", "boxes": [[1, 2.5, 3, 4]]}', encoding="utf-8")
    (tmp_path / "a/bare.json").write_text("{}")
    (tmp_path / "a/alone.json").write_text("{}")
    (tmp_path / "a/3.json").mkdir()
    listings, source = contents(tmp_path), opened(tmp_path)
    assert source.outline().notes == ("1 files that are not images are left out",)
    found = {entry.name: source.annotations("train", entry) for entry in entries(listings)}
    described = {"caption": "ein Bär", "boxes": [[1, 2.5, 3, 4]]}
    assert found == {"a/1.png": described, "a/2.jpg": {}, "a/3.png": {}, "a/bare": {}, "b/1.png": {}}
    bare = opened(tmp_path, metadata="none")
    assert bare.annotations("train", entries(listings)[0]) == {}
    assert (source.outline().annotated, bare.outline().annotated) == (True, False)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[1, 2]", "holds a list"),
        (b"null", "holds null"),
        (b'{"a": 1', "no JSON: Expecting ',' delimiter"),
        (b'{"a": NaN}', "no JSON: it has no NaN"),
        (b'{"a": "\xff"}', "no JSON: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_broken_sidecar_is_named(contents: Contents, tmp_path: Path, content: bytes, problem: str) -> None:
    tree(tmp_path, "a/1.png")
    (tmp_path / "a/1.json").write_bytes(content)
    entry = entries(contents(tmp_path))[0]
    message = rf"{tmp_path}/a/1\.json: {problem}.*; expected an object that describes a/1\.png, .*--metadata none"
    with pytest.raises(ValueError, match=message):
        opened(tmp_path).annotations("train", entry)


def test_walking_a_tree_takes_memory_for_one_folder_only(tmp_path: Path) -> None:
    for folder in range(30):
        (tmp_path / f"class {folder}").mkdir()
        for number in range(100):
            (tmp_path / f"class {folder}/a rather long name for a file {number}.jpg").touch()
    opened(tmp_path).outline()  # Pillow's list of formats
    tracemalloc.start()
    try:
        source = opened(tmp_path)
        assert source.outline().notes == ()
        assert sum(1 for _ in source.images()) == 3000
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 150_000


def test_an_empty_source_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("no images")
    with pytest.raises(ValueError, match=rf"--source {tmp_path}: no images .* but 1 other files; .*\.jpg"):
        opened(tmp_path).outline()


@pytest.mark.parametrize("source", ["./missing", "/no/such/place", "a/b/c", "../x", "x" * 300])
def test_a_missing_path_is_no_hub_name(source: str) -> None:
    with pytest.raises(ValueError, match=f"--source {source}: no such file or folder"):
        opened(source)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.txt").write_text("x")
    with pytest.raises(ValueError, match=r"images\.txt: a file, expected a folder, or a \.parquet or \.arrow file"):
        opened(tmp_path / "images.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"image_column": "img"},
            "--image-column img: --source SOURCE is KIND, which has no columns: drop --image-column",
        ),
        ({"label_column": "y"}, "--label-column y: --source SOURCE is KIND, which has no columns: drop --label-column"),
        ({"config": "c"}, "--config c: --source SOURCE is KIND, which has no configurations: drop --config"),
        ({"revision": "main"}, "--revision main: --source SOURCE is KIND, which has no revisions: drop --revision"),
        ({"streaming": True}, "--streaming: --source SOURCE is KIND, which is not read as a stream: drop --streaming"),
        ({"index_only": True}, "--index-only: --source SOURCE is KIND, not WebDataset tars: drop --index-only"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    tree(tmp_path, "1.png")
    for source, kind in (("digits", "the digits"), (str(tmp_path), "a folder of images")):
        with pytest.raises(ValueError, match=message.replace("SOURCE", source).replace("KIND", kind)):
            opened(source, **options)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the other kinds of sources their names."""
    stand_ins = {
        "tar_source": {"open_tars": lambda _: "tars"},
        "url_list": {"load_url_list": lambda _: "list", "is_url_list": lambda path, _: path.stem == "urls"},
        "streamed_dataset": {"open_streamed": lambda _, spool: f"stream into {spool}"},
    }
    for name, functions in stand_ins.items():
        monkeypatch.setitem(sys.modules, f"data_pipeline.{name}", SimpleNamespace(**functions))  # type: ignore[arg-type]


@pytest.mark.usefixtures("elsewhere")
def test_every_kind_of_source_is_told_from_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = (
        "tars/a.tar tars/deep/b.tar list.csv list.TSV urls.parquet both/a.tar zips/a.zip laion/0.tar laion/0.parquet"
    )
    for name in (*files.split(), "laion/0_stats.json", "laion/0.npy"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    tree(Path("both"), "1.png")
    for source, kind in {
        "tars": "tars",
        "tars/a.tar": "tars",
        "laion": "tars",
        "data/train-{000000..000012}.tar": "tars",
        "https://example.org/train-{0..3}.tar": "tars",
        "s3://bucket/folder": "tars",
        "list.csv": "list",
        "list.TSV": "list",
        "urls.parquet": "list",
        "https://example.org/list.csv?download=true": "list",
    }.items():
        assert str(opened(source)) == kind, source
    assert type(opened("both")).__name__ == "FolderSource"
    assert str(opened("user/name", streaming=True)) == "stream into unused"
    assert str(opened("zips", streaming=True)) == "stream into unused"
    Path("ours/__index__").mkdir(parents=True)
    np.save("ours/__index__/train-000000.npy", np.zeros(3))
    Path("ours/manifest.json").write_text('{"format": "sherd-dataset", "version": 99}')
    assert str(opened("ours")) == "tars"
    Path("ours/manifest.json").write_text('{"format": "another"}')
    assert type(opened("ours")).__name__ == "FolderSource"
    with pytest.raises(ValueError, match="--config c: --source s3://bucket/x is WebDataset tars, which has no config"):
        opened("s3://someone:secret@bucket/x", config="c")
    for options in ({"index_only": True}, {"image_column": "left.png", "label_column": "index"}):  # members of tars
        assert str(opened("tars", **options)) == "tars"


def test_listing_does_not_depend_on_how_the_path_is_spelled(
    contents: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path / "x", "b/1.png", "a/2.png")
    monkeypatch.chdir(tmp_path)
    assert len({contents(spelled).digest for spelled in ("x", f"{tmp_path}{os.sep}x{os.sep}", "./x")}) == 1
