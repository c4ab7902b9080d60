"""Lists of paths and URLs: which columns are taken, what each row comes to, how a single row is found again."""

import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline import list_rows, url_list
from data_pipeline.config import ShardConfig
from data_pipeline.location import StoreError
from data_pipeline.sources import Entry, Found, MissingImageError
from data_pipeline.url_list import UrlListSource, is_url_list, load_url_list


def load(path: object, **options: Any) -> UrlListSource:
    return load_url_list(ShardConfig(str(path), "out", **options))


def entry(found: Found) -> Entry:
    return Entry(found.name, -1, found.size, found.place, found.offset)


def images(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 3)
    return folder


def parquet(path: Path, columns: dict[str, Any], rows: int = 1_000_000) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=rows)
    return path


def test_a_text_with_every_oddity(tmp_path: Path) -> None:
    images(tmp_path, "in/a.jpg", "in/b ü.jpg", "c.jpg")
    text = (
        "\ufeffid,file_name,label,split,caption\r\n"
        '1,in/a.jpg,3,train,"two\nlines, one ""cell"""\r\n'
        "\r\n"
        "2,in/b ü.jpg,0,val,\r\n"
        f"3,{tmp_path}/c.jpg,,test,last without a line break"
    )
    (tmp_path / "list.CSV").write_text(text, encoding="utf-8", newline="")
    source = load(tmp_path / "list.CSV")
    outline = source.outline()
    assert outline.notes == ("images from column file_name, labels from column label, splits from column split",)
    assert (outline.classes, outline.annotated) == (None, True)
    found = list(source.images())
    assert [(f.split, f.name, f.label, f.size, f.place) for f in found] == [
        ("train", "in/a.jpg", 3, 24, 0),
        ("validation", "in/b ü.jpg", 0, 3 * len("in/b ü.jpg".encode()), 1),
        ("test", f"{tmp_path}/c.jpg", None, 15, 2),
    ]
    worker: UrlListSource = pickle.loads(pickle.dumps(source))  # noqa: S301 - as processes are given it
    assert [worker.read(f.split, entry(f)) for f in found] == [
        name.encode() * 3 for name in ("in/a.jpg", "in/b ü.jpg", "c.jpg")
    ]
    assert worker.read("train", entry(found[0]), 4) == b"in/a"
    assert [worker.annotations(f.split, entry(f)) for f in found] == [
        {"id": "1", "caption": 'two\nlines, one "cell"'},
        {"id": "2", "caption": ""},
        {"id": "3", "caption": "last without a line break"},
    ]


def test_columns_by_name_and_by_choice(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "l.tsv").write_text("\tURL\tpath\tClass\tkind\n0\tb.jpg\ta.jpg\t1\tx\n")
    source = load(tmp_path / "l.tsv")
    assert source.outline().notes == ("images from column path, labels from column Class",)
    (one,) = source.images()
    assert (one.name, one.label, source.annotations("train", entry(one))) == ("a.jpg", 1, {"URL": "b.jpg", "kind": "x"})
    chosen = load(tmp_path / "l.tsv", image_column="URL", label_column="kind", metadata="none")
    (one,) = chosen.images()
    assert (one.name, one.label, chosen.annotations("train", entry(one))) == ("b.jpg", "x", {})
    assert [one.label for one in load(tmp_path / "l.tsv", labels="none").images()] == [None]
    for options, message in (
        ({"image_column": "photo"}, r"no column of --image-column photo; the columns are: , URL, path, Class, kind"),
        ({"label_column": "photo"}, r"--label-column photo: no such column of classes; the columns are: , URL, path"),
    ):
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "l.tsv", **options)
    (tmp_path / "l.csv").write_text("0/a.jpg,1\n0/b.jpg,2\n")
    with pytest.raises(
        ValueError, match=r"no column of paths or URLs; .*: 0/a\.jpg, 1; expected names in the first line"
    ):
        load(tmp_path / "l.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\n", "not a single row"),
        ("path,x\na.jpg,1\nb.jpg\n", "row 1, byte 15: 1 cells, expected 2 as in the first line"),
        ("path,x\na.jpg,1\n,2\n", "row 1: column path is empty; expected a path or URL"),
        ("path,split\na.jpg,train\na.jpg,\n", "row 1: column split is empty; expected the name of a split"),
        ('path\na.jpg\n"b\n', "byte 11: unexpected end of data"),
        ("path,path\n", "several columns 'path'"),
        ("path\nx/y.jpg\n", r"column path: none of the first 1 files exists, such as .*/x/y\.jpg; expected paths seen"),
        ("path\na.jpg\nftp://host/x.jpg\n", "ftp://host/x.jpg: ftp:// is not read"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    images(tmp_path, "a.jpg")
    (tmp_path / "l.csv").write_text(text)

    def all_of_it() -> None:
        source = load(tmp_path / "l.csv")
        source.outline()
        list(source.images())

    with pytest.raises(ValueError, match=message):
        all_of_it()


def test_names_are_told_apart_and_hide_credentials(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg#7")
    urls = ["https://me:hunter2@host/x.jpg", "https://host/x.jpg?sig=topsecret", "https://host/y.jpg"]
    rows = ["a.jpg", "a.jpg", "b.jpg#7", *urls, "https://host/y.jpg", "a.jpg"]
    (tmp_path / "l.csv").write_text("path\n" + "\n".join(rows) + "\n")
    source = load(tmp_path / "l.csv")
    found = list(source.images())
    assert [one.name for one in found] == [
        *("a.jpg", "a.jpg#1", "b.jpg#7#2", "https://host/x.jpg#3", "https://host/x.jpg?[redacted]#4"),
        *("https://host/y.jpg", "https://host/y.jpg#6", "a.jpg#7"),
    ]
    assert [source.read("train", entry(found[i])) for i in (0, 1, 2, 7)] == [b"a.jpg" * 3] * 2 + [
        b"b.jpg#7" * 3,
        b"a.jpg" * 3,
    ]
    for one, url in zip(found[3:6], urls, strict=True):
        row = source._row(entry(one))
        assert source._path(row) == url


def test_missing_images_are_told_from_dead_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path, "a.jpg")
    (tmp_path / "l.csv").write_text("path\na.jpg\ngone.jpg\na.jpg/x\nmemory://nowhere/x.jpg\n")
    source = load(tmp_path / "l.csv")
    found = list(source.images())
    for number, message in (
        (1, r"row 1: .*/gone\.jpg: no such file"),
        (2, r"row 2: .*"),
        (3, r"row 3: memory://nowhere"),
    ):
        with pytest.raises(MissingImageError, match=rf"list {tmp_path}/l\.csv: {message}"):
            source.read("train", entry(found[number]))

    def fail(*_: object) -> None:
        raise StoreError("memory://nowhere/x.jpg: stage fetch: out of order")

    monkeypatch.setattr(url_list, "_fetch", fail)
    with pytest.raises(StoreError, match="out of order"):
        source.read("train", entry(found[3]))


def test_sizes(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    (tmp_path / "l.csv").write_text("url,bytes\nhttps://host/x.jpg,123\nhttps://host/y.jpg,\na.jpg,99\ngone.jpg,5\n")
    assert [one.size for one in load(tmp_path / "l.csv").images()] == [123, 100_000, 15, 100_000]
    (tmp_path / "l.csv").write_text("url\nhttps://host/x.jpg\n")
    assert [one.size for one in load(tmp_path / "l.csv").images()] == [100_000]


def test_take_stops_early(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "l.csv").write_text("path\na.jpg\nb.jpg\n" + "torn,row\n")
    assert [one.name for one in load(tmp_path / "l.csv", take=1).images()] == ["a.jpg"]
    (tmp_path / "l.csv").write_text("path,split\na.jpg,train\nb.jpg,train\nb.jpg,minival\n")
    assert [(f.split, f.name) for f in load(tmp_path / "l.csv", take=1).images()] == [
        ("train", "a.jpg"),
        ("minival", "b.jpg#2"),
    ]


def test_parquet(tmp_path: Path) -> None:
    import datetime

    names = [f"{i:03d}.jpg" for i in range(30)]
    images(tmp_path, *names)
    columns = {
        "file_name": names,
        "label": [f"class {i % 3}" for i in range(30)],
        "score": [float("nan") if i == 3 else i / 2 for i in range(30)],
        "day": [datetime.date(2020, 1, 1 + i) for i in range(30)],
        "boxes": [[[i, i]] for i in range(30)],
        "length": list(range(30)),
    }
    source = load(parquet(tmp_path / "l.parquet", columns, rows=7))
    outline = source.outline()
    assert outline.notes[0] == "images from column file_name, labels from column label"
    assert "annotations lie in 5 row groups" in outline.notes[1]
    assert dict(outline.versions) == {"pyarrow": pa.__version__}
    found = list(source.images())
    assert [(f.name, f.label, f.size, f.place) for f in found] == [
        (n, f"class {i % 3}", 21, i) for i, n in enumerate(names)
    ]
    for number in (29, 0, 3, 7, 6):
        assert source.read("train", entry(found[number])) == names[number].encode() * 3
        assert source.annotations("train", entry(found[number])) == {
            "score": None if number == 3 else number / 2,
            "day": f"2020-01-{number + 1:02d}",
            "boxes": [[number, number]],
        }


def test_parquet_with_several_labels_and_numbers(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    several = load(parquet(tmp_path / "l.parquet", {"path": ["a.jpg", "b.jpg"], "label": [[1, 4], None]}))
    assert several.outline().notes == ("images from column path, several labels from column label",)
    found = list(several.images())
    assert [one.label for one in found] == [None, None]
    assert [several.annotations("train", entry(one)) for one in found] == [{"labels": [1, 4]}, {"labels": []}]
    single = load(parquet(tmp_path / "n.parquet", {"path": ["a.jpg", "b.jpg"], "cls": [7, None], "blob": [b"x", b"y"]}))
    assert [one.label for one in single.images()] == [7, None]
    assert single.outline().annotated is False
    encoded = pa.array(["a.jpg", "b.jpg"]).dictionary_encode()
    assert [one.name for one in load(parquet(tmp_path / "d.parquet", {"path": encoded})).images()] == ["a.jpg", "b.jpg"]


def test_what_is_a_list(tmp_path: Path) -> None:
    struct = pa.array([{"bytes": b"x", "path": "a"}])
    for columns, asked, expected in (
        ({"url": ["x"]}, None, True),
        ({"image": struct, "file_name": ["a"]}, None, False),
        ({"image": struct, "file_name": ["a"]}, "file_name", True),
        ({"text": ["x"]}, None, False),
        ({"text": ["x"]}, "text", True),
        ({"url": [1]}, None, False),
        ({"image": [b"x"]}, None, False),
    ):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        assert is_url_list(parquet(path, columns), asked) is expected
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    assert is_url_list(tmp_path / "broken.parquet", None) is False
    with pytest.raises(ValueError, match=r"list .*broken\.parquet: no parquet file: "):
        load(tmp_path / "broken.parquet")
    assert is_url_list("memory://x/list.tsv", None) is True
    assert is_url_list(tmp_path / "x.json", None) is False


@pytest.fixture
def store() -> Iterator[Any]:
    """The file system of a store in memory."""
    import fsspec

    system = fsspec.filesystem("memory")
    yield system
    system.rm("/url-list", recursive=True)


@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_a_list_in_a_store(tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch, extension: str) -> None:
    monkeypatch.setattr(list_rows, "_WINDOW", 300)
    rows = [(f"in/{i}.jpg" if i % 2 else f"memory://url-list/{i}.jpg", f"caption {i}") for i in range(40)]
    for number, (path, _) in enumerate(rows):
        store.pipe(f"/url-list/{path.removeprefix('memory://url-list/')}", b"%d" % number)
    if extension == "csv":
        data = "url,caption\n" + "".join(f"{path},{caption}\n" for path, caption in rows)
        store.pipe("/url-list/l.csv", data.encode())
    else:
        columns = {"url": [path for path, _ in rows], "caption": [caption for _, caption in rows]}
        store.pipe("/url-list/l.parquet", parquet(tmp_path / "l.parquet", columns, rows=11).read_bytes())
    source = load(f"memory://url-list/l.{extension}")
    assert source.outline().annotated
    found = list(source.images())
    assert [one.name for one in found] == [path for path, _ in rows]
    for number in (39, 0, 17):
        assert source.read("train", entry(found[number])) == b"%d" % number
        assert source.read("train", entry(found[number]), 1) == b"%d" % (number // 10 or number)
        assert source.read("train", entry(found[number]), 9) == b"%d" % number
        assert source.annotations("train", entry(found[number])) == {"caption": f"caption {number}"}


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        with open(tmp_path / f"{rows}.csv", "w") as file:
            file.write("url,caption\n")
            file.writelines(f"https://host/{i}.jpg,{'word ' * 20}\n" for i in range(rows))
        tracemalloc.start()
        count = sum(1 for _ in load(tmp_path / f"{rows}.csv").images())
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == rows
        return most

    peak(10)
    assert peak(4_000) < peak(500) + 100_000


def test_few_names_are_taken_for_seen_that_were_not() -> None:
    seen = url_list._Seen()
    assert not any(seen.before(f"{i}.jpg") for i in range(20_000))
    assert all(seen.before(f"{i}.jpg") for i in range(20_000))
