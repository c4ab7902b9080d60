"""The files of a teacher's cache: arrays that numpy maps, and a record that says how many of their rows are there.

    cache.json    format, what it was made from, rows that are there, and once all are, each file's size and SHA-256
    logits.npy    (views, samples, kept); unless all classes are kept also classes.npy and rest.npy: see `LogitFormat`;
    image.npy     (views, samples, c) and places.npy (views, samples, n, d) instead, in one of features: see
                  `FeatureFormat`

Rows are written into files of full length and forced to the disk before the record counts them. So whatever is killed
and whenever, the record claims nothing that is not there, and filling goes on from it.
"""

import errno
import io
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Generic

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from launch.atomic import Guard, clean_partials, explain_full_disk, sync_folder, write_json
from launch.file_hash import file_sha256
from launch.strict_json import from_json, read_json, to_json
from pretrain.row_format import RowFormat, T

RECORD = "cache.json"
_VERSION = 1
_MOST_HASHED = 1 << 30  # bytes of a file that is read through when a cache is opened


@dataclass(frozen=True)
class FileFacts:
    """What a whole file is known by: its size in bytes, and its SHA-256 in hex."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Progress:
    """What the record says beside what the cache was made from; `files` once it is whole."""

    rows: int
    files: dict[str, FileFacts] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether all rows are there."""
        return bool(self.files)


@dataclass(frozen=True)
class CacheFiles(Generic[T]):
    """A folder for what a teacher says of `views` views of each of `samples` samples; row r is view r // samples of
    sample r mod samples.
    """

    folder: Path
    format: RowFormat[T]
    views: int
    samples: int

    @property
    def rows(self) -> int:
        """Of each file."""
        return self.views * self.samples

    @property
    def size(self) -> int:
        """Bytes of all files of rows."""
        return sum(self._size(name) for name in self.format.columns)

    def read(self) -> tuple[dict[str, Any], Progress] | None:
        """What the cache there was made from, and how far it is; None where there is none.

        Raises:
            ValueError: a record that is damaged or of another version, or a folder that holds other things.
        """
        path = self.folder / RECORD
        if not path.exists():
            self._refuse_foreign()
            return None
        content = read_json(path)
        version, made_from = content.pop("version", None), content.pop("made_from", None)
        if version != _VERSION or not isinstance(made_from, dict):
            raise ValueError(
                f"{path}: expected version {_VERSION} of a teacher's cache, found {version!r}; remove {self.folder}, "
                "and the same command fills it anew"
            )
        return made_from, from_json(Progress, content, str(path))

    def check(self, progress: Progress) -> None:
        """Compare the files of a whole cache with its record: sizes of all, bytes of those below a gigabyte.

        Raises:
            ValueError: they differ.
        """
        for name in self.format.columns:
            path, told = self.path(name), progress.files.get(self.path(name).name)
            if told is None or told.size != self._size(name):
                raise self.damaged(f"{RECORD} does not describe {path.name} as it should be")
            found = path.stat().st_size if path.is_file() else 0
            if found != told.size:
                raise self.damaged(f"{path.name} has {found:,} bytes, expected {told.size:,}")
            if found <= _MOST_HASHED and file_sha256(path) != told.sha256:
                raise self.damaged(f"the bytes of {path.name} are not those that its SHA-256 in {RECORD} stands for")

    def damaged(self, what: str) -> ValueError:
        """An error to raise."""
        return ValueError(f"{self.folder}: {what}: damaged; remove the folder, and the same command fills it anew")

    def prepare(self, made_from: Mapping[str, Any], progress: Progress | None, guard: Guard) -> int:
        """Make the files, if they are not there, and return how many rows they hold already.

        Raises:
            OSError: no room for them.
        """
        clean_partials(self.folder)
        is_there = all(
            self.path(name).is_file() and self.path(name).stat().st_size == self._size(name)
            for name in self.format.columns
        )
        if progress is not None and is_there:
            return progress.rows
        guard()
        (self.folder / RECORD).unlink(missing_ok=True)  # first, since it counts rows of the files before
        for name in self.format.columns:
            self.path(name).unlink(missing_ok=True)
        sync_folder(self.folder)
        self._check_room()
        for name in self.format.columns:
            with explain_full_disk(self.path(name), self._size(name)), self.path(name).open("xb") as file:
                file.write(self._header(name))
                file.truncate(self._size(name))
                file.flush()
                os.fsync(file.fileno())
        self.mark(made_from, Progress(0), guard)
        return 0

    def mark(self, made_from: Mapping[str, Any], progress: Progress, guard: Guard) -> None:
        """Put down how far it is. Raises LockLostError, and OSError."""
        content = {"version": _VERSION, "made_from": dict(made_from), **to_json(progress)}
        write_json(self.folder / RECORD, content, guard)

    def finish(self, made_from: Mapping[str, Any], guard: Guard) -> None:
        """Put down that it is whole, with the sizes and hashes of all files. Raises LockLostError, and OSError."""
        files = {
            self.path(name).name: FileFacts(self._size(name), file_sha256(self.path(name)))
            for name in self.format.columns
        }
        self.mark(made_from, Progress(self.rows, files), guard)

    def mapped(self) -> dict[str, NDArray[Any]]:
        """The columns, each (rows, ...), read-only and in memory only as far as they are looked at.

        Raises:
            ValueError: a file that does not begin as it should.
        """
        found = {}
        for name, (dtype, shape) in self.format.columns.items():
            header = self._header(name)
            with self.path(name).open("rb") as file:
                if file.read(len(header)) != header:
                    raise self.damaged(f"{self.path(name).name} does not begin as such an array does")
            found[name] = np.memmap(self.path(name), dtype, "r", len(header), (self.rows, *shape))
        return found

    def offset(self, name: str, row: int) -> int:
        """Where in its file the row of a column begins, in bytes."""
        dtype, shape = self.format.columns[name]
        return len(self._header(name)) + row * dtype.itemsize * prod(shape)

    def path(self, name: str) -> Path:
        """The file of a column."""
        return self.folder / f"{name}.npy"

    def _size(self, name: str) -> int:
        return self.offset(name, self.rows)

    @cached_property
    def _headers(self) -> dict[str, bytes]:
        headers = {}
        for name, (dtype, shape) in self.format.columns.items():
            header = io.BytesIO()
            described = npy.dtype_to_descr(dtype)
            whole = (self.views, self.samples, *shape)
            npy.write_array_header_1_0(header, {"descr": described, "fortran_order": False, "shape": whole})
            headers[name] = header.getvalue()
        return headers

    def _header(self, name: str) -> bytes:
        return self._headers[name]

    def _check_room(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < self.size:
            raise OSError(
                errno.ENOSPC,
                f"{self.folder}: the teacher's {self.format.noun} of {self.views} views of {self.samples:,} images "
                f"take {self.size:,} bytes, {free:,} are free; free some space{self.format.saving}, or give a folder "
                "on another disk with --cache-teacher.folder",
            )

    def _refuse_foreign(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"--cache-teacher.folder {self.folder}: is a file; expected a folder")
        ours = {self.path(name).name for name in self.format.names}
        found = sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []
        foreign = [name for name in found if name not in ours and not name.startswith(".")]
        if foreign:
            raise ValueError(
                f"--cache-teacher.folder {self.folder}: holds {foreign[0]}"
                f"{f' and {len(foreign) - 1} more' * (len(foreign) > 1)}, but no {RECORD}; expected a new folder, or "
                "one that holds such a cache"
            )
