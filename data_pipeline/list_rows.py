"""Rows of a .csv, .tsv or .parquet file, here or in a store: all of them one after another, or a single one.

Of a text the byte at which a row begins leads back to it, of parquet its number.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from data_pipeline.location import RemotePath

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_WINDOW, _ROW_WINDOW = 8_000_000, 64_000  # bytes of a request to a store: for all rows, for one
_ROWS_AT_ONCE = 1000
_BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """A row: its number from 0 on, the byte at which it begins (of a text), its cells by column."""

    number: int
    offset: int
    cells: dict[str, Any]


def is_text(where: Path | RemotePath) -> bool:
    """Whether it is a .csv or .tsv by its name."""
    return _extension(where) in _DELIMITERS


def is_parquet(where: Path | RemotePath) -> bool:
    """Whether it is a .parquet by its name."""
    return _extension(where) == ".parquet"


def column_kinds(where: Path | RemotePath) -> dict[str, str]:
    """The columns: "text", "number", "list" or "other"; "bytes" where they are, or hold, what JSON cannot express.

    Those of a text are all "text".

    Raises:
        ValueError: two columns of one name, or a first line that cannot be read.
        pyarrow.ArrowInvalid: no parquet file.
        OSError: it cannot be read.
    """
    if is_parquet(where):
        return {field.name: _kind(field.type) for field in _parquet(where).schema_arrow}
    with _open(where, _ROW_WINDOW) as file:
        names = next(_records(where, file, 0), (0, []))[1]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"list {where}: several columns {repeated[0]!r} in the first line; expected different names")
    return dict.fromkeys(names, "text")


def read_rows(where: Path | RemotePath, columns: Sequence[str], wanted: Sequence[str]) -> Iterator[Row]:
    """All rows, with the `wanted` cells at least; `columns` are the names in a text's first line.

    Raises:
        ValueError: a row of too few or too many cells, or one that cannot be read.
        OSError: the file cannot be read.
    """
    if is_parquet(where):
        batches = _parquet(where).iter_batches(_ROWS_AT_ONCE, columns=list(wanted))
        for number, cells in enumerate(cells for batch in batches for cells in batch.to_pylist()):
            yield Row(number, 0, cells)
        return
    with _open(where, _WINDOW) as file:
        records = _records(where, file, 0)
        next(records)
        for number, (offset, cells) in enumerate(records):
            yield _text_row(where, columns, number, offset, cells)


def read_row(where: Path | RemotePath, columns: Sequence[str], number: int, offset: int) -> Row:
    """One row, with all its cells, by what `read_rows` told of it.

    Raises:
        ValueError: no such row any more, or one that cannot be read.
        OSError: the file cannot be read.
    """
    if is_parquet(where):
        return Row(number, 0, _parquet_cells(where, number))
    with _open(where, _ROW_WINDOW) as file:
        offset, cells = next(_records(where, file, offset))
    return _text_row(where, columns, number, offset, cells)


def count_row_groups(where: Path | RemotePath) -> int:
    """How many parts a parquet file has; for a single row one of them is read."""
    return _parquet(where).num_row_groups


class _RangeFile(io.RawIOBase):
    """A file of a store, read by ranges."""

    def __init__(self, where: RemotePath) -> None:
        self._where, self._size, self._position = where, _size_of(where), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        stop = min(self._position + len(buffer), self._size)
        data = self._where.read_range(self._position, stop) if self._position < stop else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _open(where: Path | RemotePath, window: int) -> BinaryIO:
    return io.BufferedReader(_RangeFile(where), window) if isinstance(where, RemotePath) else open(where, "rb")


def _records(where: Path | RemotePath, file: BinaryIO, start: int) -> Iterator[tuple[int, list[str]]]:
    """From a byte on, where each record of a text begins, and its cells; a cell in quotes may hold line breaks."""
    position = start or (len(_BOM) if file.read(len(_BOM)) == _BOM else 0)
    file.seek(position)

    def lines() -> Iterator[str]:
        nonlocal position
        for line in file:
            position += len(line)
            yield line.decode()

    reader = csv.reader(lines(), delimiter=_DELIMITERS[_extension(where)], strict=True)
    while True:
        start = position
        try:
            cells = next(reader, None)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"list {where}: byte {start}: {error}; expected UTF-8, cells as in RFC 4180") from error
        if cells is None:
            return
        if cells:  # and no empty line
            yield start, cells


def _text_row(where: Path | RemotePath, columns: Sequence[str], number: int, offset: int, cells: list[str]) -> Row:
    if len(cells) != len(columns):
        raise ValueError(
            f"list {where}: row {number}, byte {offset}: {len(cells)} cells, expected {len(columns)} as "
            "in the first line; put a cell with a delimiter or quotes into quotes"
        )
    return Row(number, offset, dict(zip(columns, cells, strict=True)))


def _kind(kind: Any) -> str:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _kind(kind.value_type)
    if "binary" in str(kind):
        return "bytes"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return "list"
    return "number" if types.is_integer(kind) else "other"


def _extension(where: Path | RemotePath) -> str:
    return os.path.splitext(where.name)[1].lower()


@lru_cache(maxsize=4)
def _parquet(where: Path | RemotePath) -> Any:
    """Opened once in a process."""
    from pyarrow.parquet import ParquetFile

    return ParquetFile(_RangeFile(where) if isinstance(where, RemotePath) else where)


@lru_cache(maxsize=2)
def _row_group(where: Path | RemotePath, group: int) -> Any:
    return _parquet(where).read_row_group(group)


def _parquet_cells(where: Path | RemotePath, number: int) -> dict[str, Any]:
    metadata, start = _parquet(where).metadata, 0
    for group in range(metadata.num_row_groups):
        stop = start + metadata.row_group(group).num_rows
        if number < stop:
            return _row_group(where, group).slice(number - start, 1).to_pylist()[0]
        start = stop
    raise ValueError(f"list {where}: no row {number}: it has become shorter since it was listed")


@lru_cache(maxsize=4)
def _size_of(where: RemotePath) -> int:
    return where.size()
