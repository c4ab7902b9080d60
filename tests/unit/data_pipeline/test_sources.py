"""What a source lists and reads: digits, folder trees, tables; and what it says when it cannot."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.image_folder import FolderSource
from data_pipeline.sources import open_source
from data_pipeline.table_source import TableSource


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


def listed(source: str | Path, **options: Any) -> dict[str, list[tuple[str, int]]]:
    contents = open_source(str(source), **options).list_images()
    return {
        name: [(split.names[i], int(split.labels[i])) for i in range(len(split))]
        for name, split in contents.splits.items()
    }


def test_digits_are_scaled_and_split_by_writer() -> None:
    from sklearn.datasets import load_digits

    source = open_source("digits")
    contents = source.list_images()
    assert {name: len(split) for name, split in contents.splits.items()} == {"train": 1437, "test": 360}
    assert contents.classes == tuple("0123456789")
    values, labels = (np.asarray(array) for array in load_digits(return_X_y=True))
    for split, number, original in (("train", 0, 0), ("train", 1436, 1436), ("test", 0, 1437), ("test", 359, 1796)):
        entry = contents.splits[split].entry(number)
        assert (entry.label, entry.name) == (labels[original], f"digits/{original:04d}")
        with Image.open(io.BytesIO(source.read(split, entry))) as image:
            assert (image.format, image.mode) == ("PNG", "L")
            np.testing.assert_allclose(np.asarray(image).ravel(), values[original] * 255 / 16, atol=0.5)
        assert source.read(split, entry, 8) == b"\x89PNG\r\n\x1a\n"


def test_digits_without_labels() -> None:
    contents = open_source("digits", "none").list_images()
    assert contents.classes is None
    assert set(contents.splits["train"].labels) == {-1}


def test_class_folders_without_splits(tmp_path: Path) -> None:
    tree(tmp_path, "wolf/b.png", "wolf/deep/er/a.PNG", "ant/z.png")
    assert listed(tmp_path) == {"train": [("ant/z.png", 0), ("wolf/b.png", 1), ("wolf/deep/er/a.PNG", 1)]}
    contents = open_source(str(tmp_path)).list_images()
    assert contents.classes == ("ant", "wolf")
    assert list(contents.splits["train"].sizes) == [
        (tmp_path / name).stat().st_size for name, _ in listed(tmp_path)["train"]
    ]
    source = FolderSource(str(tmp_path), labelled=True)
    entry = contents.splits["train"].entry(1)
    assert source.read("train", entry) == (tmp_path / "wolf/b.png").read_bytes()
    assert source.read("train", entry, 4) == b"\x89PNG"


def test_split_folders(tmp_path: Path) -> None:
    tree(tmp_path, "val/ant/1.png", "train/wolf/2.png", "train/ant/3.png", "test/4.png")
    assert listed(tmp_path) == {
        "train": [("train/ant/3.png", 0), ("train/wolf/2.png", 1)],
        "validation": [("val/ant/1.png", 0)],
        "test": [("test/4.png", -1)],
    }
    assert listed(tmp_path, labels="none")["train"][1] == ("train/wolf/2.png", -1)


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    tree(tmp_path, "train/1.png", "plane/2.png")
    contents = open_source(str(tmp_path)).list_images()
    assert contents.classes == ("plane", "train")
    assert "train/ lies beside plane/: taken as a folder like any other, not as a split" in contents.notes


def test_images_outside_the_class_folders_mean_no_labels(tmp_path: Path) -> None:
    tree(tmp_path, "ant/1.png", "2.png")
    contents = open_source(str(tmp_path)).list_images()
    assert contents.classes is None
    assert "train: 1 images lie in no class folder, the first is 2.png" in contents.notes[0]
    assert set(contents.splits["train"].labels) == {-1}


def test_other_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.png", "a/.2.png", ".hidden/3.png", "a/4.webp", "a/notes.txt", "a/LICENSE", "a/no_extension")
    (tmp_path / "a/LICENSE").write_text("Anyone may")
    contents = open_source(str(tmp_path)).list_images()
    assert list(contents.splits["train"].names) == ["a/1.png", "a/4.webp", "a/no_extension"]
    assert contents.notes == ("2 files that are not images are left out",)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    tree(tmp_path / "real", "ant/1.png")
    tree(tmp_path / "elsewhere", "2.png")
    (tmp_path / "real/bee").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "real/ant/round").symlink_to(tmp_path / "real")
    (tmp_path / "real/ant/3.png").symlink_to(tmp_path / "elsewhere/2.png")
    assert [name for name, _ in listed(tmp_path / "real")["train"]] == ["ant/1.png", "ant/3.png", "bee/2.png"]


def test_an_empty_source_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("no images")
    with pytest.raises(ValueError, match=rf"--source {tmp_path}: no images .* but 1 other files; .*\.jpg"):
        open_source(str(tmp_path)).list_images()


@pytest.mark.parametrize("source", ["./missing", "/no/such/place", "a/b/c", "../x"])
def test_a_missing_path_is_no_hub_name(source: str) -> None:
    with pytest.raises(ValueError, match=f"--source {source}: no such file or folder"):
        open_source(source)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.txt").write_text("x")
    with pytest.raises(ValueError, match=r"images\.txt: a file, expected a folder, or a \.parquet or \.arrow file"):
        open_source(str(tmp_path / "images.txt"))


def test_columns_belong_to_tables(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--image-column img: --source digits is the digits, which has no columns"):
        open_source("digits", image_column="img")
    tree(tmp_path, "1.png")
    with pytest.raises(ValueError, match=r"--label-column y: --source .* is a folder of images"):
        open_source(str(tmp_path), label_column="y")


@pytest.fixture
def library(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    return datasets


def table(library: Any, count: int = 6, **columns: Any) -> Any:
    features = {
        "id": library.Value("int64"),
        "photo": library.Image(),
        "kind": library.ClassLabel(names=["ant", "wolf"]),
    }
    rows = {
        "id": list(range(count)),
        "photo": [{"bytes": image_bytes(i), "path": f"{i}.png"} for i in range(count)],
        "kind": [i % 2 for i in range(count)],
    }
    for name, (feature, values) in columns.items():
        features[name], rows[name] = feature, values
    return library.Dataset.from_dict(rows, features=library.Features(features))


def test_parquet_splits_keep_their_names_and_bytes(library: Any, tmp_path: Path) -> None:
    table(library, 6).to_parquet(tmp_path / "train.parquet")
    table(library, 4).to_parquet(tmp_path / "test.parquet")
    source = open_source(str(tmp_path))
    contents = source.list_images()
    assert {name: len(split) for name, split in contents.splits.items()} == {"train": 6, "test": 4}
    assert contents.classes == ("ant", "wolf")
    split = contents.splits["test"]
    assert [source.read("test", split.entry(i)) for i in range(4)] == [image_bytes(i) for i in range(4)]
    assert list(split.labels) == [0, 1, 0, 1]
    assert list(split.sizes) == [len(image_bytes(i)) for i in range(4)]
    assert split.names[3] == "test/3"
    assert contents.notes == ("images from column photo, labels from column kind",)
    assert set(open_source(str(tmp_path), "none").list_images().splits["train"].labels) == {-1}


def test_one_file_and_what_was_saved_to_disk(library: Any, tmp_path: Path) -> None:
    table(library).to_parquet(tmp_path / "x.parquet")
    table(library).save_to_disk(tmp_path / "saved")
    library.DatasetDict(validation=table(library, 3)).save_to_disk(tmp_path / "splits")
    assert {name: len(rows) for name, rows in listed(tmp_path / "x.parquet").items()} == {"train": 6}
    assert {name: len(rows) for name, rows in listed(tmp_path / "saved").items()} == {"train": 6}
    assert {name: len(rows) for name, rows in listed(tmp_path / "splits").items()} == {"validation": 3}


def test_columns_can_be_chosen(library: Any, tmp_path: Path) -> None:
    names = [f"class {i % 3}" for i in range(6)]
    raw = (library.Value("binary"), [image_bytes(i + 20) for i in range(6)])
    table(library, species=(library.Value("string"), names), raw_image=raw).to_parquet(tmp_path / "train.parquet")
    source = open_source(str(tmp_path), image_column="raw_image", label_column="species")
    contents = source.list_images()
    assert contents.classes == ("class 0", "class 1", "class 2")
    assert list(contents.splits["train"].labels) == [0, 1, 2, 0, 1, 2]
    assert source.read("train", contents.splits["train"].entry(5)) == image_bytes(25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "phot"}, "--image-column phot: no such column of images"),
        ({"label_column": "photo"}, "--label-column photo: no such column of classes"),
    ],
)
def test_wrong_columns_are_listed(library: Any, tmp_path: Path, options: dict[str, str], message: str) -> None:
    table(library).to_parquet(tmp_path / "train.parquet")
    columns = r"the columns are: id \(int64\), photo \(Image\), kind \(ClassLabel\)"
    with pytest.raises(ValueError, match=f"{message}; {columns}"):
        open_source(str(tmp_path), **options)


def test_a_table_without_images(library: Any, tmp_path: Path) -> None:
    table(library).remove_columns("photo").to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="no column of images; the columns are: id"):
        open_source(str(tmp_path))


def test_partly_labelled_tables_are_refused(library: Any, tmp_path: Path) -> None:
    label = (library.Value("int64"), [0, 1, -1, 2, None, 1])
    table(library, label=label).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="2 of 6 rows have no label in column label, the first is row 2"):
        open_source(str(tmp_path), label_column="label").list_images()


def test_empty_cells_and_files_named_by_the_table(library: Any, tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(image_bytes(40))
    rows = [{"bytes": None, "path": str(tmp_path / "0.png")}, None, {"bytes": image_bytes(2), "path": None}]
    table(library, 3).remove_columns("photo").add_column("photo", rows, feature=library.Image()).save_to_disk(
        tmp_path / "saved"
    )
    source = open_source(str(tmp_path / "saved"))
    split = source.list_images().splits["train"]
    assert [source.read("train", split.entry(i)) for i in range(3)] == [image_bytes(40), b"", image_bytes(2)]
    assert isinstance(source, TableSource)


def test_what_the_hub_does_not_give_is_one_clear_error(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"--source nobody/nothing: no such file .* HF_TOKEN, a mirror HF_ENDPOINT"):
        open_source("nobody/nothing")


def test_a_folder_that_datasets_cannot_read(library: Any, tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(ValueError, match="`datasets` cannot read it"):
        open_source(str(tmp_path))


def test_listing_does_not_depend_on_how_the_path_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path / "x", "b/1.png", "a/2.png")
    monkeypatch.chdir(tmp_path)
    assert listed("x") == listed(f"{tmp_path}{os.sep}x{os.sep}") == listed("./x")
