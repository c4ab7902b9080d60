"""Rows of texts and of parquet: all in order, each found again by what was told of it, and what is said of damage."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.list_rows import Row, column_kinds, count_row_groups, is_parquet, is_text, read_row, read_rows


def test_kinds_of_files_by_their_names() -> None:
    names = ("a.csv", "a.TSV", "a.Parquet", "a.json", "csv")
    assert [(is_text(Path(name)), is_parquet(Path(name))) for name in names] == [
        *((True, False), (True, False), (False, True)),
        *((False, False), (False, False)),
    ]


@pytest.mark.parametrize(("name", "mark"), [("l.csv", ","), ("l.tsv", "\t")])
def test_each_row_of_a_text_is_found_again(tmp_path: Path, name: str, mark: str) -> None:
    lines = ["a,b", "1,ü", '"two\n""lines""",', "", "3,x"]
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).replace(",", mark).encode())
    columns = list(column_kinds(path))
    assert column_kinds(path) == {"a": "text", "b": "text"}
    rows = list(read_rows(path, columns, ["a"]))
    assert rows == [
        Row(0, 8, {"a": "1", "b": "ü"}),
        Row(1, 14, {"a": 'two\n"lines"', "b": ""}),
        Row(2, 34, {"a": "3", "b": "x"}),
    ]
    assert [read_row(path, columns, row.number, row.offset) for row in reversed(rows)] == rows[::-1]


def test_each_row_of_parquet_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "l.parquet"
    cells = [{"a": f"{number}", "b": number, "c": [number], "d": b"x", "e": number / 2} for number in range(20)]
    pq.write_table(pa.Table.from_pylist(cells), path, row_group_size=7)
    assert column_kinds(path) == {"a": "text", "b": "number", "c": "list", "d": "bytes", "e": "other"}
    assert count_row_groups(path) == 3
    assert list(read_rows(path, (), ["b", "a"])) == [
        Row(number, 0, {"b": number, "a": f"{number}"}) for number in range(20)
    ]
    for number in (19, 0, 7, 6, 13, 14):
        assert read_row(path, (), number, 0) == Row(number, 0, cells[number])
    with pytest.raises(ValueError, match="no row 20: it has become shorter"):
        read_row(path, (), 20, 0)


def test_a_text_that_is_no_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_bytes("path\na.jpg\nü.jpg\n".encode("latin-1"))
    rows = read_rows(path, ["path"], ["path"])
    assert next(rows) == Row(0, 5, {"path": "a.jpg"})
    with pytest.raises(ValueError, match=r"list .*l\.csv: byte 11: 'utf-8' codec can't decode .* expected UTF-8"):
        next(rows)


def test_a_text_that_changed_after_it_was_listed(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("path,label\na.jpg,1\nb.jpg,2\n")
    last = list(read_rows(path, ["path", "label"], ["path"]))[-1]
    path.write_text("path\na.jpg\nanother.jpg\nb.jpg\n")
    with pytest.raises(ValueError, match=r"row 1, byte 19: 1 cells, expected 2 as in the first line"):
        read_row(path, ["path", "label"], last.number, last.offset)
