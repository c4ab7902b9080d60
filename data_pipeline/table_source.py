"""Tables with a column of images, through the `datasets` library: parquet, arrow, what it saved, the Hub's datasets.

The library keeps an Arrow copy in its cache; worker processes map those files, and touch no network.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.config import ShardConfig
from data_pipeline.location import MissingError, RemotePath, ShortError, locate
from data_pipeline.sources import Entry, Found, MissingImageError, Outline
from data_pipeline.table_columns import (
    choose_image_column,
    choose_label_column,
    class_names,
    describing_columns,
    element,
    expressed,
    several_labels,
    sizes,
)
from launch.redaction import redact

if TYPE_CHECKING:
    import datasets
    import pyarrow

TABLES = {".parquet": "parquet", ".arrow": "arrow"}
"""Extensions of tables, and what `datasets` calls the formats."""

_SAVED = ("dataset_dict.json", "state.json")  # of `save_to_disk`: of several splits, of one
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class TableSource:
    """Splits, each with its Arrow files in order, and the columns to read. Names are `split/row`, places are rows.

    `described_by` are the columns that annotate an image; a `label_column` of lists does so, too.
    """

    files: tuple[tuple[str, tuple[str, ...]], ...]
    image_column: str
    label_column: str | None
    described_by: tuple[str, ...]
    description: str

    def outline(self) -> Outline:
        """Names of the classes, where the table's description has them."""
        notes = [f"images from column {self.image_column}"]
        if self.label_column is not None:
            several = "several " if self._has_several else ""
            notes[0] += f", {several}labels from column {self.label_column}"
        if self.described_by:
            notes.append(f"kept as JSON (but not with --metadata none): columns {', '.join(self.described_by)}")
        classes = None if self.label_column is None or self._has_several else class_names(self._label)
        libraries = tuple((name, version(name)) for name in ("datasets", "pyarrow"))
        annotated = bool(self.described_by) or self._has_several
        return Outline(classes, self.description, tuple(notes), libraries, annotated)

    def images(self) -> Iterator[Found]:
        """Every row is an image; sizes are taken from the table without reading images."""
        single = self.label_column if self.label_column is not None and not self._has_several else None
        columns = list(dict.fromkeys(name for name in (self.image_column, single) if name is not None))
        for split, files in self.files:
            table: pyarrow.Table = _open(files).data.table
            row = 0
            for batch in table.select(columns).to_reader(_ROWS_AT_ONCE):
                labels = [None] * len(batch) if single is None else batch.column(single).to_pylist()
                for size, label in zip(sizes(batch.column(self.image_column)), labels, strict=True):
                    yield Found(split, f"{split}/{row}", label, size, row)
                    row += 1

    def read(self, split: str, entry: Entry, limit: int | None = None) -> bytes:
        """The bytes in the table, or those of the file that it names; none for an empty cell.

        Raises:
            MissingImageError: there is no such file.
            OSError: it cannot be read.
        """
        value = self._row(split, entry)[self.image_column][0].as_py()
        if isinstance(value, Mapping):
            path, value = value.get("path"), value["bytes"]
            if value is None and path:
                return _read_path(path, limit)
        return (value or b"")[:limit]

    def annotations(self, split: str, entry: Entry) -> dict[str, Any]:
        """The other columns; and of several labels `labels`, and `label_names` where they have names."""
        if not self.described_by and not self._has_several:
            return {}
        row, features = self._row(split, entry), _open(dict(self.files)[split]).features
        found = {name: expressed(features[name], row[name][0].as_py()) for name in self.described_by}
        if self._has_several:
            found |= several_labels(self._label, row[self.label_column][0].as_py())
        return found

    def _row(self, split: str, entry: Entry) -> Any:
        return _open(dict(self.files)[split])[entry.place]

    @property
    def _label(self) -> Any:
        return None if self.label_column is None else _open(self.files[0][1]).features[self.label_column]

    @property
    def _has_several(self) -> bool:
        return element(self._label) is not None


def is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any((path / name).is_file() for name in _SAVED)


def load_local_table(config: ShardConfig) -> TableSource:
    """A parquet or arrow file, a folder of them, one that `save_to_disk` wrote, or any that `datasets` reads.

    Raises:
        ValueError: `datasets` cannot read it, or there is no such column.
    """
    datasets = _library()
    path = Path(config.source)
    try:
        if is_saved(path):
            loaded = datasets.load_from_disk(config.source, keep_in_memory=False)
        elif path.is_file():
            loaded = datasets.load_dataset(TABLES[path.suffix.lower()], data_files=str(path), keep_in_memory=False)
        else:
            loaded = datasets.load_dataset(str(path.absolute()), config.config, keep_in_memory=False)
    except _failures() as error:
        _explain_configurations(config, str(path.absolute()), error)
        raise ValueError(f"--source {config.source}: `datasets` cannot read it: {_one_line(error)}") from error
    return _table_source(loaded, config, f"table {config.source}")


def load_hub_table(config: ShardConfig) -> TableSource:
    """A dataset of the Hub, downloaded into the cache of `datasets`.

    Raises:
        ValueError: it does not exist, cannot be had or read, has several configurations of which none was chosen, or
            there is no such column.
    """
    datasets = _library()
    try:
        loaded = datasets.load_dataset(config.source, config.config, revision=config.revision, keep_in_memory=False)
    except _failures() as error:
        _explain_configurations(config, config.source, error)
        raise ValueError(
            f"--source {config.source}: no such file or folder here (seen from {os.getcwd()}), and not to be had from "
            f"the Hub: {_one_line(error)}. Check the spelling; private and gated datasets need HF_TOKEN, a mirror "
            "HF_ENDPOINT"
        ) from error
    return _table_source(loaded, config, f"Hub dataset {config.source}")


def _table_source(loaded: Any, config: ShardConfig, description: str) -> TableSource:
    place = f"--source {config.source}"
    splits = dict(loaded) if isinstance(loaded, Mapping) else {str(loaded.split or "train"): loaded}
    splits = {str(split): table for split, table in splits.items() if len(table)}
    if not splits:
        raise ValueError(f"{place}: tables without a single row; expected one row an image")
    features = next(iter(splits.values())).features
    for split, table in splits.items():
        if table.features != features:
            raise ValueError(f"{place}: split {split} has other columns than {next(iter(splits))}: shard them apart")
    images = choose_image_column(place, features, config.image_column)
    label = choose_label_column(place, features, config.label_column)
    return TableSource(
        files=tuple((name, tuple(file["filename"] for file in splits[name].cache_files)) for name in splits),
        image_column=images,
        label_column=None if config.labels == "none" else label,
        described_by=() if config.metadata == "none" else describing_columns(features, (images, label)),
        description=description,
    )


def _explain_configurations(config: ShardConfig, path: str, error: BaseException) -> None:
    """Raises a ValueError that lists the configurations, if what went wrong is that none of them was chosen."""
    datasets = _library()
    if type(error) is not ValueError:  # whatever else it is, asking again would only take time
        return
    try:
        names = datasets.get_dataset_config_names(path, revision=config.revision)
    except _failures():
        return
    if config.config in names or (config.config is None and len(names) < 2):
        return
    problem = "it has several configurations" if config.config is None else f"it has no configuration {config.config}"
    raise ValueError(
        f"--source {config.source}: {problem}; choose one with --config NAME: {', '.join(names)}"
    ) from error


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


def _failures() -> tuple[type[Exception], ...]:
    """All that `datasets` lets out when it cannot load something."""
    from huggingface_hub.errors import HfHubHTTPError

    # A broken connection is no OSError but an error of the HTTP library, which changes with huggingface_hub's version.
    broken: Any = HfHubHTTPError.__bases__
    return (_library().exceptions.DatasetsError, OSError, ValueError, RuntimeError, *broken)


def _read_path(path: str, limit: int | None) -> bytes:
    where = locate(path)
    try:
        if isinstance(where, RemotePath):
            with suppress(ShortError):
                return where.read_bytes() if limit is None else where.read_range(0, limit)
            return where.read_bytes()
        with open(where, "rb") as file:
            return file.read(-1 if limit is None else limit)
    except (FileNotFoundError, MissingError) as error:
        raise MissingImageError(f"no such file: {where}") from error


def _one_line(error: BaseException) -> str:
    return redact(" ".join(str(error).split()).rstrip(".")) or type(error).__name__
