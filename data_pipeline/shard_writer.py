"""One shard, written by one worker process: tar, index, names; a pure function of its samples' bytes and names.

Everything is written aside, in the folder `.work`, and renamed when it is whole. What is known of a
finished shard is written last of all, so that a run that goes on after a crash can tell whole shards from others.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from data_pipeline.decode import DecodeError, ImageFacts, Pixels, read_strictly, to_png
from data_pipeline.manifest import INDEX_DTYPE, NO_LABEL, Shard
from data_pipeline.shard_plan import WORK_FOLDER, ShardNames
from data_pipeline.sources import Entry, Source
from data_pipeline.task_pool import Report
from launch.atomic import explain_full_disk, sync_folder, write_atomically

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)


@dataclass(frozen=True)
class ShardRecord:
    """What is known of a written shard, as JSON in the work folder; `task` stands for what it was made from.

    `histogram` counts the pixels of each of the 256 values of each of three channels; widths and heights in pixels.
    `foreign` images are not of the split's format and were kept, `converted` ones were encoded anew.
    """

    task: str
    split: str
    shard: Shard
    names_sha256: str
    quarantined: list[tuple[str, str]]
    foreign: int
    converted: int
    histogram: list[int]
    smallest: tuple[int, int]
    largest: tuple[int, int]


@dataclass(frozen=True)
class ShardTask:
    """Writes one shard. `first` is the number of its first sample, `size` the bytes of its images as listed;
    `digest` stands for plan and library versions.

    With `expected` the shard replaces the one of a finished dataset, and only if it comes out the same.
    """

    source: Source
    folder: Path
    split: str
    names: ShardNames
    prefix: str
    extension: str
    first: int
    entries: tuple[Entry, ...]
    size: int
    digest: str
    expected: Shard | None = None

    def __str__(self) -> str:
        return f"shard {self.names.file}"

    def run(self, report: Report) -> ShardRecord:
        """The record of the shard, which is on the disk then; at once if it was there already.

        Raises:
            ValueError: the shard is not the expected one; the old files stay.
            OSError: a source that cannot be read, or a full disk.
        """
        if self.expected is None:
            record = self._read_record()
            if record is not None:
                report(len(self.entries))
                return record
        record = self._write(report)
        if self.expected is None:
            write_atomically(self._record_path, json.dumps(asdict(record)))
        return record

    @property
    def _record_path(self) -> Path:
        return self.folder / WORK_FOLDER / f"{self.names.file}.json"

    @property
    def _identity(self) -> str:
        return f"{self.digest} {self.extension}"

    def _read_record(self) -> ShardRecord | None:
        record = read_record(self._record_path)
        if record is None or record.task != self._identity:
            return None
        if record.shard.samples == 0:
            return record
        files = ((record.shard.file, record.shard.sha256), (record.shard.index, record.shard.index_sha256))
        for name, expected in (*files, (self.names.names, record.names_sha256)):
            path = self.folder / name
            if not path.is_file() or _sha256(path) != expected:
                return None
        return record

    def _write(self, report: Report) -> ShardRecord:
        target = self.folder / self.names.file
        content = _Content(self.extension)
        with _partial(self.folder / WORK_FOLDER / self.names.file) as temporary:
            # Outermost, since closing a file writes, too.
            with explain_full_disk(target, self.size), open(temporary, "wb") as file:
                tar = _TarWriter(file)
                for number, entry in enumerate(self.entries, self.first):
                    content.add(tar, f"{self.prefix}-{number:09d}", entry, self.source.read(self.split, entry))
                    report(1)
                tar.finish()
            index, names = content.index(), content.names()
            index_bytes = _npy(index)
            shard = Shard(
                file=self.names.file,
                samples=len(index),
                bytes=tar.position,
                sha256=tar.sha256.hexdigest(),
                index=self.names.index,
                index_sha256=hashlib.sha256(index_bytes).hexdigest(),
            )
            if self.expected is not None and self.expected != shard:
                raise ValueError(_changed(self.names.file, self.expected, shard))
            if len(index):
                os.replace(temporary, target)
                sync_folder(self.folder)
                write_atomically(self.folder / self.names.index, index_bytes)
                write_atomically(self.folder / self.names.names, names)
        return ShardRecord(
            task=self._identity,
            split=self.split,
            shard=shard,
            names_sha256=hashlib.sha256(names).hexdigest(),
            quarantined=content.quarantined,
            foreign=content.foreign,
            converted=content.converted,
            histogram=content.histogram.tolist(),
            smallest=content.smallest,
            largest=content.largest,
        )


def read_record(path: Path) -> ShardRecord | None:
    """A record that an earlier run left; None if there is none, or a damaged one."""
    try:
        fields: dict[str, Any] = json.loads(path.read_text())
        fields["shard"] = Shard(**fields["shard"])
        fields["quarantined"] = [(name, reason) for name, reason in fields["quarantined"]]
        fields["smallest"], fields["largest"] = tuple(fields["smallest"]), tuple(fields["largest"])
        return ShardRecord(**fields)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


class _Content:
    """What a shard's samples come to, one after another."""

    def __init__(self, extension: str) -> None:
        self._extension = extension
        self._rows: list[tuple[int, ...]] = []
        self._names: list[str] = []
        self.quarantined: list[tuple[str, str]] = []
        self.foreign = self.converted = 0
        self.histogram = np.zeros(768, np.int64)
        self.smallest, self.largest = (2**31, 2**31), (0, 0)

    def add(self, tar: "_TarWriter", key: str, entry: Entry, data: bytes) -> None:
        """Write a sample; or, if its image is broken, put it on the list of those."""
        try:
            facts, pixels = read_strictly(data)
        except DecodeError as error:
            self.quarantined.append((entry.name, str(error)))
            return
        if facts.extension != self._extension:
            data, facts = self._adapt(data, facts, pixels)
        annotation = b"" if entry.label == NO_LABEL else str(entry.label).encode()
        offset = tar.position
        image_offset = tar.add(f"{key}.{self._extension}", data)
        if annotation:
            tar.add(f"{key}.cls", annotation)
        hashes = xxhash.xxh3_64_intdigest(data), xxhash.xxh3_64_intdigest(annotation)
        sizes = (facts.width, facts.height)
        self._rows.append(
            (offset, tar.position - offset, image_offset, len(data), *hashes, entry.label, *sizes, facts.orientation, 0)
        )
        self._names.append(entry.name)
        self.histogram += Image.fromarray(np.ascontiguousarray(pixels)).histogram()
        self.smallest = (min(self.smallest[0], sizes[0]), min(self.smallest[1], sizes[1]))
        self.largest = (max(self.largest[0], sizes[0]), max(self.largest[1], sizes[1]))

    def index(self) -> NDArray[np.void]:
        """One row a sample, in the order of the tar."""
        return np.array(self._rows, INDEX_DTYPE)

    def names(self) -> bytes:
        """One name a line; a line break in a name is written as \\n."""
        return b"".join(os.fsencode(name.replace("\n", "\\n")) + b"\n" for name in self._names)

    def _adapt(self, data: bytes, facts: ImageFacts, pixels: Pixels) -> tuple[bytes, ImageFacts]:
        if self._extension == "png":
            self.converted += 1
            return to_png(pixels), facts._replace(extension="png", orientation=1)  # the pixels are upright already
        self.foreign += 1  # nothing can be encoded as JPEG without loss; readers look at the bytes, not at the name
        return data, facts


class _TarWriter:
    """Plain USTAR with nothing in the headers but name and size."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.position = 0
        self.sha256 = hashlib.sha256()

    def add(self, name: str, data: bytes) -> int:
        """Write a member; returns where its bytes begin."""
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(data), 0o444
        start = self.position + _BLOCK
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return start

    def finish(self) -> None:
        """Write the end of the archive, and force all of it to the disk."""
        self._write(_END)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.sha256.update(data)
        self.position += len(data)


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A file name of this process's own; the file is gone at the end unless it was renamed."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _npy(index: NDArray[np.void]) -> bytes:
    buffer = BytesIO()
    np.save(buffer, index, allow_pickle=False)
    return buffer.getvalue()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _changed(file: str, expected: Shard, found: Shard) -> str:
    return (
        f"shard {file}: manifest lists {expected.samples} samples with sha256 {expected.sha256[:12]}, the source now "
        f"gives {found.samples} with {found.sha256[:12]}: the source or the libraries have changed since; the old file "
        "is kept. Restore them, or write the whole dataset to another --out"
    )
