"""A dataset that `datasets` reads as a stream: while it is listed a copy of its images is kept on the disk.

So it is downloaded once, nothing but its images is kept, and worker processes read the copy. In the copy's files an
image is followed by its annotations: eight bytes of length, then JSON.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from data_pipeline.config import ShardConfig
from data_pipeline.sources import Entry, Found, Outline
from data_pipeline.table_columns import (
    choose_image_column,
    choose_label_column,
    class_names,
    describing_columns,
    element,
    expressed,
    several_labels,
)
from data_pipeline.table_source import TABLES
from launch.atomic import explain_full_disk
from launch.redaction import redact

_FILE_BYTES = 1_000_000_000
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class StreamedSource:
    """A stream, the columns to read, and the folder of its copy. Names are `split/row`.

    `described_by` are the columns that annotate an image; a `label_column` of lists does so, too.
    """

    config: ShardConfig
    spool: Path
    image_column: str
    label_column: str | None
    has_several: bool
    classes: tuple[str, ...] | None
    described_by: tuple[str, ...]

    def outline(self) -> Outline:
        """Columns, and the names of the classes where the dataset has them."""
        note = f"images from column {self.image_column}"
        if self.label_column is not None:
            note += f", {'several ' if self.has_several else ''}labels from column {self.label_column}"
        return Outline(
            classes=self.classes,
            description=f"stream of {redact(self.config.source)}",
            notes=(note, f"the images that are read are kept in {self.spool} until the shards are written"),
            versions=tuple((name, version(name)) for name in ("datasets", "pyarrow")),
            annotated=bool(self.described_by) or self.has_several,
        )

    def images(self) -> Iterator[Found]:
        """Every row, once its image is in the copy, which is begun anew; of each split only as many as asked for.

        Raises:
            ValueError: the dataset cannot be opened any more.
            OSError: a stream that breaks off, or a full disk; names split and row.
        """
        wanted = (self.image_column, self.label_column, *self.described_by)
        columns = [name for name in wanted if name is not None]
        copy = _Copy(self.spool)
        try:
            for split, stream in _open_stream(self.config).items():
                features = stream.features
                rows = stream.select_columns(columns)
                rows = rows if self.config.take is None else rows.take(self.config.take)
                for number, (row, data) in enumerate(_read_rows(rows, self.config, split, self.image_column)):
                    text = json.dumps(self._describe(features, row)).encode()
                    place, offset = copy.append(data + len(text).to_bytes(_LENGTH_BYTES) + text)
                    label = None if self.label_column is None or self.has_several else row[self.label_column]
                    yield Found(split, f"{split}/{number}", label, len(data), place, offset)
        finally:
            copy.close()

    def read(self, split: str, entry: Entry, limit: int | None = None) -> bytes:
        """The bytes in the copy; none for an empty cell."""
        return _read(self.spool, entry.place, entry.offset, entry.size if limit is None else min(limit, entry.size))

    def annotations(self, split: str, entry: Entry) -> dict[str, Any]:
        """The other columns; and of several labels `labels`, and `label_names` where they have names."""
        start = entry.offset + entry.size
        length = int.from_bytes(_read(self.spool, entry.place, start, _LENGTH_BYTES))
        return json.loads(_read(self.spool, entry.place, start + _LENGTH_BYTES, length))

    def _describe(self, features: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: expressed(features[name], row[name]) for name in self.described_by}
        if self.has_several and self.label_column is not None:
            found |= several_labels(features[self.label_column], row[self.label_column])
        return found


def open_streamed(config: ShardConfig, spool: Path) -> StreamedSource:
    """A dataset of the Hub, or a path that `datasets` reads; its images are kept in the folder `spool`.

    Raises:
        ValueError: it does not exist, cannot be had or read, or there is no such column.
    """
    place = f"--source {redact(config.source)}"
    streams = _open_stream(config)
    first, features = next((split, stream.features) for split, stream in streams.items())
    for split, stream in streams.items():
        if stream.features != features:
            raise ValueError(f"{place}: split {split} has other columns than {first}: shard them apart")
    image = choose_image_column(place, features, config.image_column)
    chosen = choose_label_column(place, features, config.label_column)
    label = None if config.labels == "none" else chosen
    has_several = label is not None and element(features[label]) is not None
    return StreamedSource(
        config=config,
        spool=spool,
        image_column=image,
        label_column=label,
        has_several=has_several,
        classes=None if label is None or has_several else class_names(features[label]),
        described_by=() if config.metadata == "none" else describing_columns(features, (image, chosen)),
    )


def _open_stream(config: ShardConfig) -> dict[str, Any]:
    """By split, with known columns and no image decoded."""
    import datasets
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    path = Path(config.source)
    # A broken connection is no OSError but an error of the HTTP library, which changes with huggingface_hub's version.
    broken: Any = HfHubHTTPError.__bases__
    try:
        if path.is_file():
            loaded = datasets.load_dataset(TABLES[path.suffix.lower()], data_files=str(path), streaming=True)
        else:
            where = str(path.absolute()) if path.is_dir() else config.source
            loaded = datasets.load_dataset(where, config.config, revision=config.revision, streaming=True)
        streams = loaded.items() if isinstance(loaded, Mapping) else [(loaded.split or "train", loaded)]
        return {str(split): _undecoded(stream) for split, stream in streams}
    except (DatasetsError, OSError, ValueError, RuntimeError, *broken) as error:
        raise ValueError(
            f"--source {redact(config.source)}: `datasets` cannot stream it: {_one_line(error)}. Check the spelling, "
            "--config and --revision; private and gated datasets need HF_TOKEN, a mirror HF_ENDPOINT"
        ) from error


def _undecoded(stream: Any) -> Any:
    import datasets

    if stream.features is None:
        row = next(iter(stream), None)
        if row is None:
            raise ValueError("a split without a single row, of which the columns are not known")
        stream = stream.cast(datasets.Dataset.from_list([row]).features)
    if hasattr(stream, "decode"):
        return stream.decode(False)  # what is decoded by threads would otherwise be encoded anew
    for name, feature in stream.features.items():
        if isinstance(feature, datasets.Image):
            stream = stream.cast_column(name, datasets.Image(decode=False))
    return stream


def _read_rows(rows: Any, config: ShardConfig, split: str, column: str) -> Iterator[tuple[Mapping[str, Any], bytes]]:
    """Rows and their images' bytes. `datasets` retries what a network drops; what it gives up on is an OSError."""
    stream, number = iter(rows), 0
    while True:
        try:
            row = next(stream, None)
            data = b"" if row is None else _image_bytes(row[column])
        except Exception as error:  # noqa: BLE001 - whatever a library lets out, its text may hold credentials
            where = f"--source {redact(config.source)}: split {split}, row {number}, stage stream"
            raise OSError(f"{where}: {_one_line(error)}; give the same command again to begin anew") from None
        if row is None:
            return
        yield row, data
        number += 1


def _image_bytes(cell: Any) -> bytes:
    if isinstance(cell, Mapping):
        if cell["bytes"] is None and cell.get("path"):
            from datasets.utils.file_utils import xopen

            with xopen(cell["path"], "rb") as file:
                return file.read()
        cell = cell["bytes"]
    return cell or b""


class _Copy:
    """Files of about 1 GB in a folder, which are written from the first one on."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("stream-*.bin"):
            path.unlink()
        self._folder = folder
        self._number = -1
        self._file: BinaryIO | None = None

    def append(self, data: bytes) -> tuple[int, int]:
        """Number of the file, and the byte at which the data begins; it can be read at once. Raises OSError."""
        if self._file is None or self._file.tell() >= _FILE_BYTES:
            self.close()
            self._number += 1
            self._file = open(_path(self._folder, self._number), "xb")  # noqa: SIM115 - closed by `close`
        offset = self._file.tell()
        with explain_full_disk(_path(self._folder, self._number), len(data)):
            self._file.write(data)
            self._file.flush()
        return self._number, offset

    def close(self) -> None:
        """Force what was written to the disk."""
        if self._file is not None:
            with self._file:
                os.fsync(self._file.fileno())
            self._file = None


def _path(folder: Path, number: int) -> Path:
    return folder / f"stream-{number:06d}.bin"


def _read(folder: Path, number: int, start: int, length: int) -> bytes:
    path = _path(folder, number)
    with open(path, "rb", buffering=0) as file:
        data, size = os.pread(file.fileno(), length, start), os.fstat(file.fileno()).st_size
    if len(data) < length:
        raise OSError(f"{path}: the copy of the stream was cut at byte {size}, expected {start + length} at least")
    return data


def _one_line(error: BaseException) -> str:
    return redact(" ".join(str(error).split()).rstrip(".")) or type(error).__name__
