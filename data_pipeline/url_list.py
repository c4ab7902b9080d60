"""A list of images as a source: a .csv, .tsv or .parquet file, here or in a store, with a column of paths or URLs.

Rows are read one after another and none is kept. Of a text the listing remembers the byte at which a row begins, of
parquet its number.
"""

import mmap
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import xxhash

from data_pipeline.config import ShardConfig
from data_pipeline.list_rows import (
    Row,
    column_kinds,
    count_row_groups,
    is_parquet,
    is_text,
    read_row,
    read_rows,
)
from data_pipeline.location import MissingError, RemotePath, ShortError, locate
from data_pipeline.sources import Entry, Found, MissingImageError, Outline
from data_pipeline.table_columns import expressed, several_labels
from launch.redaction import redactor

_IMAGES = ("image", "path", "file", "filepath", "file_name", "filename", "url", "image_url", "image_path")
_LABELS = ("label", "cls", "class")
_SIZES = ("size", "bytes", "length")
_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_UNKNOWN_SIZE = 100_000  # bytes; to ask for each would take a request an image, and only shard counts depend on it
_NUMBER = re.compile(r"-1|0|[1-9][0-9]{0,8}")
_NUMBERED = re.compile(r"#[0-9]+$")
_LOOKED_AT = 10
_FILTER_BITS = 1 << 29


@dataclass(frozen=True)
class UrlListSource:
    """Rows of a list that name images, and the columns to read.

    Names are the paths or URLs as written; `#` and the row's number follow where that would show credentials, or
    repeats. A `label_column` of lists is kept as several labels. Of each split the first `take` images are listed.
    """

    where: Path | RemotePath
    columns: tuple[str, ...]
    image_column: str
    label_column: str | None = None
    has_several: bool = False
    split_column: str | None = None
    size_column: str | None = None
    described_by: tuple[str, ...] = ()
    take: int | None = None

    def outline(self) -> Outline:
        """The columns, and whether the first images are where they are said to be.

        Raises:
            ValueError: no rows, or paths that lead nowhere.
            OSError: the list cannot be read.
        """
        first = [self._path(row) for row in islice(self._rows(), _LOOKED_AT)]
        places = [self._locate(path) for path in first]
        if not first:
            raise ValueError(f"list {self.where}: not a single row; expected one an image, below a line of names")
        if all(isinstance(place, Path) and not place.is_file() for place in places):
            raise ValueError(
                f"list {self.where}: column {self.image_column}: none of the first {len(places)} files exists, such as "
                f"{places[0]}; expected paths seen from the list's own folder, or URLs"
            )
        note = f"images from column {self.image_column}"
        if self.label_column is not None:
            note += f", {'several ' if self.has_several else ''}labels from column {self.label_column}"
        if self.split_column is not None:
            note += f", splits from column {self.split_column}"
        notes = [note]
        annotated = bool(self.described_by) or self.has_several
        groups = count_row_groups(self.where) if annotated and is_parquet(self.where) else 0
        if groups > 2:
            notes.append(
                f"annotations lie in {groups:,} row groups, of which one is read anew for nearly every image; as "
                ".csv, of which single rows are read, the list is faster"
            )
        libraries = (("pyarrow", version("pyarrow")),) if is_parquet(self.where) else ()
        return Outline(None, f"list {self.where}", tuple(notes), libraries, annotated)

    def images(self) -> Iterator[Found]:
        """The image of each row; sizes of files are looked up, those behind URLs are guessed unless a column has them.

        Raises:
            ValueError: an empty path, one that cannot be read, a row of too few or too many cells.
            OSError: the list cannot be read.
        """
        single = None if self.has_several else self.label_column
        typed, hide = is_parquet(self.where), redactor()
        listed, schemes, seen = Counter[str](), set[str](), _Seen()
        for row in self._rows():
            path = self._path(row)
            scheme = path.partition("://")[0] if "://" in path else ""
            if scheme not in schemes:
                self._locate(path)  # refuses what is not read
                schemes.add(scheme)
            shown = hide(path) if scheme else path
            if shown != path or _NUMBERED.search(path) or seen.before(path):
                shown += f"#{row.number}"
            split = self._split(row)
            label = None if single is None else _label(row.cells[single], typed)
            if self.take is None or listed[split] < self.take:
                listed[split] += 1
                yield Found(split, shown, label, self._size(path, row), row.number, row.offset)
            elif self.split_column is None:
                return

    def read(self, split: str, entry: Entry, limit: int | None = None) -> bytes:
        """The bytes of the file, or what the URL gives."""
        path = self._path(self._row(entry)) if _NUMBERED.search(entry.name) else entry.name
        where = self._locate(path)
        try:
            if isinstance(where, RemotePath):
                return _fetch(where, limit)
            with open(where, "rb", buffering=0 if limit else -1) as file:
                return file.read(-1 if limit is None else limit)
        except (MissingError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            reason = error if isinstance(error, MissingError) else f"{where}: no such file"
            raise MissingImageError(f"list {self.where}: row {entry.place}: {reason}") from None

    def annotations(self, split: str, entry: Entry) -> dict[str, Any]:
        """The other columns, of a text as they are written; and of several labels `labels`."""
        if not self.described_by and not self.has_several:
            return {}
        cells = self._row(entry).cells
        found = {name: expressed(None, cells[name]) for name in self.described_by}
        if self.has_several and self.label_column is not None:
            found |= several_labels(None, cells[self.label_column])
        return found

    def _rows(self) -> Iterator[Row]:
        """All rows, with the cells that listing needs."""
        label = None if self.has_several else self.label_column
        wanted = (self.image_column, label, self.split_column, self.size_column)
        return read_rows(self.where, self.columns, [name for name in wanted if name is not None])

    def _row(self, entry: Entry) -> Row:
        """One row, with all its cells."""
        return read_row(self.where, self.columns, entry.place, entry.offset)

    def _path(self, row: Row) -> str:
        return self._filled(row, self.image_column, "a path or URL")

    def _filled(self, row: Row, column: str, expected: str) -> str:
        if not row.cells[column]:
            raise ValueError(f"list {self.where}: row {row.number}: column {column} is empty; expected {expected}")
        return row.cells[column]

    def _locate(self, path: str) -> Path | RemotePath:
        if "://" in path:
            return locate(path)
        if isinstance(self.where, Path):
            return self.where.parent / path
        base, mark, query = self.where.url.partition("?")
        return RemotePath(f"{base.rpartition('/')[0]}{mark}{query}") / path

    def _split(self, row: Row) -> str:
        if self.split_column is None:
            return "train"
        split = self._filled(row, self.split_column, "the name of a split")
        return _SPLITS.get(split.lower(), split)

    def _size(self, path: str, row: Row) -> int:
        if "://" not in path:
            if isinstance(self.where, Path):
                try:  # by the name: to make a Path of it takes longer than the answer
                    return os.stat(os.path.join(os.path.dirname(self.where), path)).st_size
                except (FileNotFoundError, NotADirectoryError):
                    return _UNKNOWN_SIZE  # reading it will tell
            self._locate(path)  # refuses what leads out of the store's folder
        size = str(row.cells[self.size_column]) if self.size_column is not None else ""
        return int(size) if re.fullmatch("[0-9]{1,15}", size) else _UNKNOWN_SIZE


def is_url_list(path: str | Path, image_column: str | None) -> bool:
    """Whether a file or URL is a list: text, or parquet whose image column holds strings, and no column bytes.

    Raises OSError: it cannot be read.
    """
    where = locate(path)
    if not is_parquet(where):
        return is_text(where)
    import pyarrow

    try:
        kinds = column_kinds(where)
    except pyarrow.ArrowInvalid:
        return False
    if image_column is not None:
        return kinds.get(image_column) == "text"
    return "bytes" not in kinds.values() and any(kinds.get(name) == "text" for name in _named(kinds, _IMAGES))


def load_url_list(config: ShardConfig) -> UrlListSource:
    """The list that `--source` names.

    Raises:
        ValueError: no such columns, or a file that is no such list.
        OSError: it cannot be read.
    """
    import pyarrow

    where = locate(config.source)
    try:
        kinds = column_kinds(where)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"list {where}: no parquet file: {' '.join(str(error).split())}") from error
    texts = [name for name in _named(kinds, _IMAGES) if kinds[name] == "text"]
    image = config.image_column or next(iter(texts), None)
    if image is None or kinds.get(image) != "text":
        wanted = f"--image-column {image}" if image else "paths or URLs"
        raise ValueError(
            f"list {where}: no column of {wanted}; the columns are: {', '.join(kinds)}; expected names in the first "
            f"line, one of {', '.join(_IMAGES)} among them, or --image-column"
        )
    label = config.label_column or next(iter(_named(kinds, _LABELS)), None)
    if label is not None and kinds.get(label) not in ("text", "number", "list"):
        raise ValueError(
            f"list {where}: --label-column {label}: no such column of classes; the columns are: {', '.join(kinds)}"
        )
    split = next(iter(_named(kinds, ("split",))), None)
    size = next((name for name in _named(kinds, _SIZES) if kinds[name] in ("text", "number")), None)
    used = ("", image, label, split, size)
    others = tuple(name for name, kind in kinds.items() if name not in used and kind != "bytes")
    label = None if config.labels == "none" else label
    return UrlListSource(
        where=where,
        columns=tuple(kinds),
        image_column=image,
        label_column=label,
        has_several=label is not None and kinds[label] == "list",
        split_column=split,
        size_column=size,
        described_by=() if config.metadata == "none" else others,
        take=config.take,
    )


class _Seen:
    """Which names there were, in 64 MB whatever their number: of very many, a few are taken for seen that were not."""

    def __init__(self) -> None:
        self._bits = mmap.mmap(-1, _FILTER_BITS // 8)  # memory is taken where bits are set

    def before(self, name: str) -> bool:
        """Whether the name was asked for before."""
        digest, found = xxhash.xxh3_128_intdigest(os.fsencode(name)), True
        for shift in (0, 32, 64, 96):
            place = (digest >> shift) % _FILTER_BITS
            byte, bit = self._bits[place >> 3], 1 << (place & 7)
            if not byte & bit:
                self._bits[place >> 3] = byte | bit
                found = False
        return found


def _named(kinds: dict[str, str], names: tuple[str, ...]) -> list[str]:
    """The columns with one of these names, in the names' order, whatever the case."""
    return [column for name in names for column in kinds if column.lower() == name]


def _label(cell: Any, typed: bool) -> int | str | None:
    """In a text, digits are the number of a class, and anything else is its name."""
    if cell in (None, ""):
        return None
    return int(cell) if not typed and _NUMBER.fullmatch(cell) else cell


def _fetch(where: RemotePath, limit: int | None) -> bytes:
    if limit is not None:
        with suppress(ShortError):
            return where.read_range(0, limit)
    return where.read_bytes()
