"""Tables as sources: the columns chosen, labels one or several, what the others come to in JSON, the Hub's part."""

import datetime
import io
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from data_pipeline.config import ShardConfig
from data_pipeline.listing import Listings, write_listing
from data_pipeline.open_source import open_source
from data_pipeline.sources import Entry, MissingImageError, Source
from data_pipeline.table_source import TableSource


def image_bytes(number: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6 + number % 3, 5), (number * 7 % 256, 80, 160)).save(buffer, kind)
    return buffer.getvalue()


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


def test_parquet_splits_keep_their_names_and_bytes(library: Any, contents: Contents, tmp_path: Path) -> None:
    table(library, 6).to_parquet(tmp_path / "train.parquet")
    table(library, 4).to_parquet(tmp_path / "test.parquet")
    listings, source = contents(tmp_path), opened(tmp_path)
    assert {name: len(split) for name, split in listings.splits.items()} == {"train": 6, "test": 4}
    assert listings.classes == ("ant", "wolf")
    rows = entries(listings, "test")
    assert [source.read("test", entry) for entry in rows] == [image_bytes(i) for i in range(4)]
    assert source.read("test", rows[3], 5) == image_bytes(3)[:5]
    assert [entry.label for entry in rows] == [0, 1, 0, 1]
    assert [entry.size for entry in rows] == [len(image_bytes(i)) for i in range(4)]
    assert rows[3].name == "test/3"
    assert source.outline().notes == (
        "images from column photo, labels from column kind",
        "kept as JSON (but not with --metadata none): columns id",
    )
    assert [opened(tmp_path, metadata=kept).outline().annotated for kept in ("auto", "none")] == [True, False]
    without = contents(tmp_path, labels="none")
    assert {entry.label for entry in entries(without)} == {-1}
    assert source.annotations("test", rows[2]) == {"id": 2}
    assert opened(tmp_path, labels="none").annotations("test", rows[2]) == {"id": 2}
    assert opened(tmp_path, metadata="none").annotations("test", rows[2]) == {}


def test_one_file_and_what_was_saved_to_disk(library: Any, contents: Contents, tmp_path: Path) -> None:
    table(library).save_to_disk(tmp_path / "saved")
    library.DatasetDict(validation=table(library, 3)).save_to_disk(tmp_path / "splits")

    def counts(source: Path) -> dict[str, int]:
        return {name: len(rows) for name, rows in contents(source).splits.items()}

    assert counts(tmp_path / "saved") == {"train": 6}
    assert counts(tmp_path / "splits") == {"validation": 3}
    with pytest.raises(ValueError, match="saved is a folder that `save_to_disk` wrote, which is not read as a stream"):
        opened(tmp_path / "saved", streaming=True)


def test_a_single_file(library: Any, contents: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, functions in {
        "url_list": {"is_url_list": lambda *_: False},
        "streamed_dataset": {"open_streamed": lambda _, spool: f"stream into {spool}"},
    }.items():
        monkeypatch.setitem(sys.modules, f"data_pipeline.{name}", SimpleNamespace(**functions))  # type: ignore[arg-type]
    table(library).to_parquet(tmp_path / "x.PARQUET")
    assert len(contents(tmp_path / "x.PARQUET").splits["train"]) == 6
    assert str(opened(tmp_path / "x.PARQUET", streaming=True)) == "stream into unused"


def test_columns_can_be_chosen(library: Any, contents: Contents, tmp_path: Path) -> None:
    names = [f"class {i % 3}" for i in range(6)]
    raw = (library.Value("binary"), [image_bytes(i + 20) for i in range(6)])
    table(library, species=(library.Value("string"), names), raw_image=raw).to_parquet(tmp_path / "train.parquet")
    options = {"image_column": "raw_image", "label_column": "species"}
    listings, source = contents(tmp_path, **options), opened(tmp_path, **options)
    assert listings.classes == ("class 0", "class 1", "class 2")
    rows = entries(listings)
    assert [entry.label for entry in rows] == [0, 1, 2, 0, 1, 2]
    assert source.read("train", rows[5]) == image_bytes(25)
    assert source.annotations("train", rows[5]) == {"id": 5, "kind": "wolf"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "phot"}, "--image-column phot: no such column of images"),
        ({"label_column": "photo"}, "--label-column photo: no such column of classes"),
        ({"label_column": "kinds"}, "--label-column kinds: no such column of classes"),
    ],
)
def test_wrong_columns_are_listed(library: Any, tmp_path: Path, options: dict[str, str], message: str) -> None:
    table(library).to_parquet(tmp_path / "train.parquet")
    columns = r"the columns are: id \(int64\), photo \(Image\), kind \(ClassLabel\)"
    with pytest.raises(ValueError, match=f"{message}; {columns}"):
        opened(tmp_path, **options)


def test_a_table_without_images(library: Any, tmp_path: Path) -> None:
    table(library).remove_columns("photo").to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="no column of images; the columns are: id"):
        opened(tmp_path)


def test_partly_labelled_tables_are_refused(library: Any, contents: Contents, tmp_path: Path) -> None:
    label = (library.Value("int64"), [0, 1, -1, 2, None, 1])
    table(library, label=label).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="2 of 6 images have no label, the first is train/2; label all or none"):
        contents(tmp_path, label_column="label")
    assert contents(tmp_path, label_column="label", take=2).classes == ("0", "1")


def test_a_column_of_lists_is_several_labels(library: Any, contents: Contents, tmp_path: Path) -> None:
    tags = (library.List(library.ClassLabel(names=["red", "round", "soft"])), [[0, 2], [], None, [1]])
    words = (library.List(library.Value("string")), [["a"], ["b", "c"], [], ["d"]])
    table(library, 4, tags=tags, words=words).remove_columns("kind").to_parquet(tmp_path / "train.parquet")
    listings, source = contents(tmp_path), opened(tmp_path)
    assert (listings.classes, {entry.label for entry in entries(listings)}) == (None, {-1})
    assert source.outline().notes[0] == "images from column photo, several labels from column tags"
    found = [source.annotations("train", entry) for entry in entries(listings)]
    assert found == [
        {"id": 0, "words": ["a"], "labels": [0, 2], "label_names": ["red", "soft"]},
        {"id": 1, "words": ["b", "c"], "labels": [], "label_names": []},
        {"id": 2, "words": [], "labels": [], "label_names": []},
        {"id": 3, "words": ["d"], "labels": [1], "label_names": ["round"]},
    ]
    entry = entries(listings)[0]
    bare = {"metadata": "none"}
    assert opened(tmp_path, **bare).annotations("train", entry) == {"labels": [0, 2], "label_names": ["red", "soft"]}
    assert opened(tmp_path, label_column="words", **bare).annotations("train", entry) == {"labels": ["a"]}
    assert opened(tmp_path, labels="none").annotations("train", entry) == {"id": 0, "words": ["a"]}


def test_the_other_columns_are_expressed_in_json(library: Any, contents: Contents, tmp_path: Path) -> None:
    nested = {
        "box": library.List(library.Value("float32")),
        "crop": library.Image(),
        "kind": library.ClassLabel(names=["x"]),
    }
    day = datetime.datetime(2024, 2, 29, 13, 5)
    columns = {
        "caption": (library.Value("string"), "ein Bär"),
        "score": (library.Value("float64"), float("nan")),
        "day": (library.Value("date32"), day.date()),
        "taken": (library.Value("timestamp[ms, tz=UTC]"), day.replace(tzinfo=datetime.UTC)),
        "raw": (library.Value("binary"), b"123"),
        "sound": (library.Audio(), None),
        "views": (library.List(library.Image()), [{"bytes": b"1", "path": None}]),
        "objects": (library.List(nested), [{"box": [1, float("inf")], "crop": None, "kind": 0}]),
        "grid": (library.Array2D((2, 2), "int32"), [[1, 2], [3, 4]]),
        "loose": (library.Json(), {"a": [1, None]}),
        "empty": (library.Value("string"), None),
    }
    rows = {name: (feature, [value]) for name, (feature, value) in columns.items()}
    table(library, 1, **rows).save_to_disk(tmp_path / "saved")
    source = opened(tmp_path / "saved")
    found = source.annotations("train", entries(contents(tmp_path / "saved"))[0])
    assert found == {
        "id": 0,
        "caption": "ein Bär",
        "score": None,
        "day": "2024-02-29",
        "taken": "2024-02-29T13:05:00+00:00",
        "objects": [{"box": [1.0, None], "kind": "x"}],
        "grid": [[1, 2], [3, 4]],
        "loose": {"a": [1, None]},
        "empty": None,
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_empty_cells_and_files_named_by_the_table(library: Any, tmp_path: Path) -> None:
    import pyarrow as pa

    (tmp_path / "0.png").write_bytes(image_bytes(40))
    cells = [{"bytes": None, "path": str(tmp_path / "0.png")}, None, {"bytes": image_bytes(2), "path": None}]
    cells += [{"bytes": None, "path": "/nowhere/3.png"}]
    rows = table(library, 4).remove_columns("photo").add_column("photo", cells, feature=library.Image()).data.table
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file, pa.ipc.new_stream(file, rows.schema) as stream:
        stream.write_table(rows)  # `save_to_disk` would write the bytes of the files
    source = TableSource((("train", (str(tmp_path / "x.arrow"),)),), "photo", None, (), "a table")
    sizes = [found.size for found in source.images()]
    assert (sizes[0], sizes[2]) == (len(image_bytes(40)), len(image_bytes(2)))
    found = [Entry(f"train/{row}", -1, 0, row) for row in range(4)]
    assert [source.read("train", entry) for entry in found[:3]] == [image_bytes(40), b"", image_bytes(2)]
    assert source.read("train", found[0], 3) == image_bytes(40)[:3]
    with pytest.raises(MissingImageError, match=r"no such file: /nowhere/3\.png"):
        source.read("train", found[3])


def test_listing_a_table_takes_memory_for_some_rows_only(library: Any, tmp_path: Path) -> None:
    names = [f"class {i % 50}" for i in range(30_000)]
    images = [b"x" * 50] * len(names)
    features = library.Features({"image": library.Value("binary"), "label": library.Value("string")})
    library.Dataset.from_dict({"image": images, "label": names}, features=features).save_to_disk(tmp_path / "saved")
    source = opened(tmp_path / "saved", label_column="label")
    next(iter(source.images()))
    tracemalloc.start()
    try:
        assert sum(1 for _ in source.images()) == len(names)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 500_000


def test_what_the_hub_does_not_give_is_one_clear_error(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"--source nobody/nothing: no such file .* HF_TOKEN, a mirror HF_ENDPOINT"):
        opened("nobody/nothing")


@pytest.mark.parametrize(
    ("options", "problem"), [({}, "several configurations"), ({"config": "medium"}, "no configuration medium")]
)
def test_configurations_are_listed(library: Any, tmp_path: Path, options: dict[str, str], problem: str) -> None:
    for name in ("large", "small"):
        table(library).to_parquet(tmp_path / name / "train.parquet")
    configs = "".join(f"- {{config_name: {name}, data_files: {name}/*}}\n" for name in ("large", "small"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with pytest.raises(ValueError, match=f"--source {tmp_path}: it has {problem}; choose one with .*: large, small"):
        opened(tmp_path, **options)
    assert opened(tmp_path, config="small").outline().description == f"table {tmp_path}"


def test_the_hub_is_asked_for_configuration_and_revision(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(*words: Any, **options: Any) -> Any:
        asked.append((*words, options.pop("revision")))
        raise library.exceptions.DatasetNotFoundError("not there")

    monkeypatch.setattr(library, "load_dataset", load)
    with pytest.raises(ValueError, match="not there"):
        opened("user/name", config="small", revision="v2")
    assert asked == [("user/name", "small", "v2")]


def test_a_folder_that_datasets_cannot_read(library: Any, tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(ValueError, match="`datasets` cannot read it"):
        opened(tmp_path)
