"""Streams through `datasets`, from folders here: what is listed, what the copy on the disk gives back, what breaks."""

import io
import json
import pickle
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_pipeline import streamed_dataset
from data_pipeline.config import ShardConfig
from data_pipeline.sources import Entry, Found
from data_pipeline.streamed_dataset import StreamedSource, open_streamed

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _no_network(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def image_bytes(number: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6 + number % 3, 5), (number * 7 % 256, 80, 160)).save(buffer, kind)
    return buffer.getvalue()


def table(count: int, **columns: Any) -> Any:
    features = {
        "id": datasets.Value("int64"),
        "photo": datasets.Image(),
        "kind": datasets.ClassLabel(names=["ant", "wolf"]),
        "score": datasets.Value("float64"),
        "blob": datasets.Value("binary"),
        "boxes": datasets.Sequence(datasets.Sequence(datasets.Value("int64"))),
    }
    rows = {
        "id": list(range(count)),
        "photo": [{"bytes": image_bytes(i), "path": f"{i}.jpg"} for i in range(count)],
        "kind": [i % 2 for i in range(count)],
        "score": [float("nan") if i == 1 else i / 2 for i in range(count)],
        "blob": [b"\0"] * count,
        "boxes": [[[i, 1]] for i in range(count)],
    }
    for name, (feature, values) in columns.items():
        features[name], rows[name] = feature, values
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def parquet(folder: Path, **counts: int) -> Path:
    folder.mkdir()
    for split, count in counts.items():
        table(count).to_parquet(folder / f"{split}.parquet")
    return folder


def stream(source: object, tmp_path: Path, **options: Any) -> StreamedSource:
    return open_streamed(ShardConfig(str(source), "out", streaming=True, **options), tmp_path / "spool")


def entry(found: Found) -> Entry:
    return Entry(found.name, -1, found.size, found.place, found.offset)


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "spool").iterdir())


def test_images_keep_their_bytes_and_are_read_from_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_dataset, "_FILE_BYTES", 3000)
    source = stream(parquet(tmp_path / "in", train=12, test=3), tmp_path)
    outline = source.outline()
    assert (outline.classes, outline.annotated) == (("ant", "wolf"), True)
    assert outline.notes[0] == "images from column photo, labels from column kind"
    assert {name for name, _ in outline.versions} == {"datasets", "pyarrow"}
    found = list(source.images())
    assert [(f.split, f.name, f.label, f.size) for f in found] == [
        (split, f"{split}/{i}", i % 2, len(image_bytes(i)))
        for split, n in (("train", 12), ("test", 3))
        for i in range(n)
    ]
    assert len(files(tmp_path)) > 2
    for path in (tmp_path / "in").iterdir():
        path.unlink()  # the copy is enough
    worker: StreamedSource = pickle.loads(pickle.dumps(source))  # noqa: S301 - as processes are given it
    for one in reversed(found):
        number = int(one.name.partition("/")[2])
        assert worker.read(one.split, entry(one)) == image_bytes(number)
        assert worker.read(one.split, entry(one), 3) == b"\xff\xd8\xff"
        assert worker.annotations(one.split, entry(one)) == {
            "id": number,
            "score": None if number == 1 else number / 2,
            "boxes": [[number, 1]],
        }


def test_options(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "in", train=5)
    bare = stream(folder, tmp_path, labels="none", metadata="none")
    assert (bare.outline().classes, bare.outline().annotated) == (None, False)
    found = list(bare.images())
    assert [one.label for one in found] == [None] * 5
    assert bare.annotations("train", entry(found[0])) == {}
    assert "kind" not in stream(folder, tmp_path, labels="none").described_by
    by_id = stream(folder, tmp_path, label_column="id")
    assert [one.label for one in by_id.images()] == list(range(5))
    with pytest.raises(ValueError, match=r"--source .*in: --image-column phot: no such column of images; the columns"):
        stream(folder, tmp_path, image_column="phot")


def test_one_file_and_a_column_of_bytes(tmp_path: Path) -> None:
    raw = (datasets.Value("binary"), [image_bytes(i + 20) for i in range(4)])
    labels = (datasets.Sequence(datasets.ClassLabel(names=["x", "y"])), [[0, 1], [], [1], [0]])
    table(4, raw_image=raw, tags=labels).to_parquet(tmp_path / "one.parquet")
    source = stream(tmp_path / "one.parquet", tmp_path, image_column="raw_image", label_column="tags")
    assert source.outline().notes[0] == "images from column raw_image, several labels from column tags"
    found = list(source.images())
    assert [source.read("train", entry(one)) for one in found] == [image_bytes(i + 20) for i in range(4)]
    assert [one.label for one in found] == [None] * 4
    facts = source.annotations("train", entry(found[0]))
    assert (facts["labels"], facts["label_names"], facts["kind"]) == ([0, 1], ["x", "y"], "ant")


def test_a_folder_of_images_that_datasets_makes_rows_of(tmp_path: Path) -> None:
    lines = []
    for number in range(4):
        path = tmp_path / "in" / "train" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(number, "PNG"))
        lines.append(json.dumps({"file_name": path.name, "text": f"Nr. {number} ✓"}))
    (tmp_path / "in" / "train" / "metadata.jsonl").write_text("\n".join(lines))
    source = stream(tmp_path / "in", tmp_path)
    found = list(source.images())
    assert [source.read("train", entry(one)) for one in found] == [image_bytes(i, "PNG") for i in range(4)]
    assert [source.annotations("train", entry(one)) for one in found] == [{"text": f"Nr. {i} ✓"} for i in range(4)]


def test_no_more_than_asked_for_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stream(parquet(tmp_path / "in", train=30, test=2), tmp_path, take=3)
    read = []
    original = streamed_dataset._image_bytes

    def noted(cell: Any) -> bytes:
        read.append(cell["path"])
        return original(cell)

    monkeypatch.setattr(streamed_dataset, "_image_bytes", noted)
    assert [one.name for one in source.images()] == ["train/0", "train/1", "train/2", "test/0", "test/1"]
    assert len(read) == 5


def test_the_copy_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_dataset, "_FILE_BYTES", 1)
    source = stream(parquet(tmp_path / "in", train=6), tmp_path)
    killed = source.images()
    assert isinstance(killed, Generator)
    first = next(killed)
    assert source.read("train", entry(first)) == image_bytes(0)  # what is listed can be read at once
    for _ in range(4):
        next(killed)
    killed.close()
    assert len(files(tmp_path)) == 5
    (tmp_path / "spool" / "stream-000099.bin").write_bytes(b"from an earlier run")
    found = list(source.images())
    assert len(files(tmp_path)) == 6
    assert [source.read("train", entry(one)) for one in found] == [image_bytes(i) for i in range(6)]


def test_a_stream_that_breaks_off_names_split_and_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stream(parquet(tmp_path / "in", train=6), tmp_path)
    original = datasets.IterableDataset.__iter__

    def breaking(self: Any) -> Iterator[Any]:
        for number, row in enumerate(original(self)):
            if number == 2:
                raise ConnectionError("Server Disconnected https://me:hunter2@host/x?sig=topsecret")
            yield row

    monkeypatch.setattr(datasets.IterableDataset, "__iter__", breaking)
    images = source.images()
    assert [next(images).name for _ in range(2)] == ["train/0", "train/1"]
    message = (
        rf"--source {tmp_path}/in: split train, row 2, stage stream: Server Disconnected .*; give the same command"
    )
    with pytest.raises(OSError, match=message) as caught:
        next(images)
    assert "hunter2" not in str(caught.value)
    assert "topsecret" not in str(caught.value)


def test_a_damaged_copy(tmp_path: Path) -> None:
    source = stream(parquet(tmp_path / "in", train=2), tmp_path)
    found = list(source.images())
    path = tmp_path / "spool" / "stream-000000.bin"
    path.write_bytes(path.read_bytes()[: found[1].offset + 10])
    for read in (source.read, source.annotations):
        with pytest.raises(
            OSError, match=rf"{path}: the copy of the stream was cut at byte {found[1].offset + 10}, exp"
        ):
            read("train", entry(found[1]))


def test_what_cannot_be_streamed(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.parquet").write_bytes(b"not parquet at all")
    for source in (tmp_path / "bad", "nobody/nothing"):
        with pytest.raises(ValueError, match=rf"--source {source}: `datasets` cannot stream it: .* HF_TOKEN"):
            stream(source, tmp_path)


def all_of(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from rows


def generated(**splits: list[dict[str, Any]]) -> Any:
    """Streams whose columns are not known before they are read."""
    return datasets.IterableDatasetDict(
        {
            split: datasets.IterableDataset.from_generator(all_of, gen_kwargs={"rows": rows})
            for split, rows in splits.items()
        }
    )


def test_a_stream_that_does_not_tell_its_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"image": image_bytes(i), "label": i, "text": str(i)} for i in range(3)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: generated(train=rows))
    source = stream("user/name", tmp_path)
    found = list(source.images())
    assert [one.label for one in found] == [0, 1, 2]
    assert [source.read("train", entry(one)) for one in found] == [image_bytes(i) for i in range(3)]
    assert source.annotations("train", entry(found[2])) == {"text": "2"}
    other = [{"image": image_bytes(0), "text": "x"}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: generated(train=rows, test=other))
    with pytest.raises(
        ValueError, match="--source user/name: split test has other columns than train: shard them apart"
    ):
        stream("user/name", tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: generated(train=[]))
    with pytest.raises(ValueError, match=r"--source user/name: .* a split without a single row"):
        stream("user/name", tmp_path)


def test_what_threads_would_decode_keeps_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = parquet(tmp_path / "in", train=3)
    load = datasets.load_dataset

    def as_from_the_hub(*words: Any, **options: Any) -> Any:
        return {split: rows.decode(num_threads=2) for split, rows in load(*words, **options).items()}

    monkeypatch.setattr(datasets, "load_dataset", as_from_the_hub)
    source = stream(folder, tmp_path)
    found = list(source.images())
    assert [source.read("train", entry(one)) for one in found] == [image_bytes(i) for i in range(3)]


def test_name_configuration_and_revision_are_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*words: Any, **options: Any) -> Any:
        asked.append((words, options))
        return generated(train=[{"image": image_bytes(0)}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    stream("user/name", tmp_path, config="small", revision="v2")
    assert asked == [(("user/name", "small"), {"revision": "v2", "streaming": True})]
