"""Tables with a column of images, through the `datasets` library: parquet, arrow, what it saved, the Hub's datasets.

The library keeps an Arrow copy in its cache; worker processes map those files, and touch no network.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data_pipeline.manifest import NO_LABEL
from data_pipeline.sources import Contents, Entry, Listing
from data_pipeline.table_columns import choose_image_column, choose_label_column, class_names, label_numbers, sizes

if TYPE_CHECKING:
    import datasets

_TABLES = {".parquet": "parquet", ".arrow": "arrow"}
_ARCHIVES = (".tar", ".zip")
_SAVED = ("dataset_dict.json", "state.json")  # of `save_to_disk`: of several splits, of one


@dataclass(frozen=True)
class TableSource:
    """Splits, each with its Arrow files in order, and the columns to read. Names are `split/row`."""

    files: tuple[tuple[str, tuple[str, ...]], ...]
    image_column: str
    label_column: str | None
    description: str

    def list_images(self) -> Contents:
        """Every row is an image; sizes are taken from the table without reading images.

        Raises:
            ValueError: no rows, or labels that are no class numbers.
        """
        tables = {split: _open(files) for split, files in self.files}
        splits, classes = {}, None
        names = class_names(list(tables.values()), self.label_column)
        for split, table in tables.items():
            numbers = label_numbers(table, self.label_column, names, split)
            if (numbers != NO_LABEL).any():
                classes = names
            names_of_rows = [f"{split}/{row}" for row in range(len(table))]
            splits[split] = Listing(names_of_rows, numbers, sizes(table, self.image_column))
        notes = [f"images from column {self.image_column}"]
        if self.label_column is not None:
            notes[0] += f", labels from column {self.label_column}"
        libraries = {name: version(name) for name in ("datasets", "pyarrow")}
        return Contents(splits, classes, self.description, tuple(notes), libraries)

    def read(self, split: str, entry: Entry, limit: int | None = None) -> bytes:
        """The bytes in the table, or those of the file that it names; none for an empty cell."""
        row = _open(dict(self.files)[split])[entry.number]
        value = row[self.image_column][0].as_py()
        if isinstance(value, Mapping):
            path, value = value.get("path"), value["bytes"]
            if value is None and path:
                return _read_path(path, limit)
        return (value or b"")[:limit]


def holds_table(path: Path) -> bool:
    """Whether a file is a table, or a folder holds tables or archives rather than loose images."""
    from data_pipeline.image_folder import image_extensions

    if path.is_file():
        return path.suffix in _TABLES
    if any((path / name).is_file() for name in _SAVED):
        return True
    suffixes = Counter(_suffixes(path))
    images = sum(suffixes[extension] for extension in image_extensions())
    tables = sum(suffixes[extension] for extension in _TABLES)
    # A table's README may show a picture, and a tree of images come with a table of something else.
    return tables > images or (images == 0 and any(suffixes[extension] for extension in _ARCHIVES))


def load_local_table(source: str, labels: str, image_column: str | None, label_column: str | None) -> TableSource:
    """A parquet or arrow file, a folder of them, one that `save_to_disk` wrote, or any that `datasets` reads.

    Raises:
        ValueError: `datasets` cannot read it, or there is no such column.
    """
    datasets = _library()
    path = Path(source)
    try:
        if any((path / name).is_file() for name in _SAVED):
            loaded = datasets.load_from_disk(source, keep_in_memory=False)
        elif path.is_file():
            loaded = datasets.load_dataset(_TABLES[path.suffix], data_files=str(path), keep_in_memory=False)
        else:
            loaded = datasets.load_dataset(str(path.absolute()), keep_in_memory=False)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise ValueError(f"--source {source}: `datasets` cannot read it: {_one_line(error)}") from error
    return _table_source(loaded, source, f"table {source}", _Columns(labels, image_column, label_column))


def load_hub_table(source: str, labels: str, image_column: str | None, label_column: str | None) -> TableSource:
    """A dataset of the Hub, downloaded into the cache of `datasets`.

    Raises:
        ValueError: it does not exist, cannot be had or read, or there is no such column.
    """
    from huggingface_hub.errors import HfHubHTTPError

    datasets = _library()
    # A broken connection is no OSError but an error of the HTTP library, which changes with huggingface_hub's version.
    broken: Any = HfHubHTTPError.__bases__
    try:
        loaded = datasets.load_dataset(source, keep_in_memory=False)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, *broken) as error:
        raise ValueError(
            f"--source {source}: no such file or folder here (seen from {os.getcwd()}), and not to be had from the "
            f"Hub: {_one_line(error)}. Check the spelling; private and gated datasets need HF_TOKEN, a mirror "
            "HF_ENDPOINT"
        ) from error
    return _table_source(loaded, source, f"Hub dataset {source}", _Columns(labels, image_column, label_column))


class _Columns(NamedTuple):
    """What was asked for on the command line."""

    labels: str
    image: str | None
    label: str | None


def _table_source(loaded: Any, source: str, description: str, asked: _Columns) -> TableSource:
    place = f"--source {source}"
    splits = dict(loaded) if isinstance(loaded, Mapping) else {str(loaded.split or "train"): loaded}
    splits = {str(split): table for split, table in splits.items() if len(table)}
    if not splits:
        raise ValueError(f"{place}: tables without a single row; expected one row an image")
    features = next(iter(splits.values())).features
    for split, table in splits.items():
        if table.features != features:
            raise ValueError(f"{place}: split {split} has other columns than {next(iter(splits))}: shard them apart")
    images = choose_image_column(place, features, asked.image)
    label = None if asked.labels == "none" else choose_label_column(place, features, asked.label)
    files = tuple(
        (split, tuple(file["filename"] for file in table.cache_files))
        for split, table in sorted(splits.items(), key=_rank)
    )
    return TableSource(files, images, label, description)


@cache
def _open(files: tuple[str, ...]) -> "datasets.Dataset":
    """Rows as slices of Arrow tables, so that no image is decoded. Cached: one mapping a process."""
    datasets = _library()
    tables = [datasets.Dataset.from_file(file) for file in files]
    return datasets.concatenate_datasets(tables).with_format("arrow")


def _library() -> Any:
    import datasets

    datasets.disable_progress_bars()  # the sharding has its own
    return datasets


def _read_path(path: str, limit: int | None) -> bytes:
    if "://" not in path:
        with open(path, "rb") as file:
            return file.read(-1 if limit is None else limit)
    import fsspec

    with fsspec.open(path, "rb") as file:
        return file.read(-1 if limit is None else limit)  # pyright: ignore[reportAttributeAccessIssue]


def _suffixes(folder: Path) -> Iterator[str]:
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.splitext(name)[1].lower() for name in names if not name.startswith("."))


def _rank(item: tuple[str, Any]) -> tuple[int, str]:
    order = ("train", "validation", "test")
    return (order.index(item[0]) if item[0] in order else len(order), item[0])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
