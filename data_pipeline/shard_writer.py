"""One shard, written by one worker process: tar, index, names; a pure function of its samples' bytes and names.

Everything is written aside, in the folder `.work`, and renamed when it is whole. What is known of a
finished shard is written last of all, so that a run that goes on after a crash can tell whole shards from others.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.manifest import Shard
from data_pipeline.shard_content import Encoding, ShardContent, SplitFormat, Sums
from data_pipeline.shard_plan import WORK_FOLDER, SplitPlan
from data_pipeline.sources import MissingImageError, Source
from data_pipeline.tar_writer import TarWriter
from data_pipeline.task_pool import Report
from launch.atomic import explain_full_disk, sync_folder, write_atomically
from launch.file_hash import file_sha256


@dataclass(frozen=True)
class ShardRecord:
    """What is known of a written shard, as JSON in the work folder; `task` stands for what it was made from.

    `quarantined` are names and reasons of the `broken` samples that were left out. `labels` counts images by class
    number; widths and heights are in pixels. `foreign` images are not of the split's format and were kept, `converted`
    ones were encoded anew without loss, `shrunk` ones smaller.
    """

    task: str
    split: str
    shard: Shard
    names_sha256: str
    broken: int
    quarantined: list[tuple[str, str]]
    foreign: int
    converted: int
    shrunk: int
    labels: dict[str, int]
    sums: Sums
    smallest: tuple[int, int]
    largest: tuple[int, int]

    def in_short(self) -> "ShardRecord":
        """Without the names of what was left out, which may be many; they stay in the file."""
        return replace(self, quarantined=[])


@dataclass(frozen=True)
class ShardTask:
    """Writes one shard of a plan. `digest` stands for plan, options and library versions; `annotated`: every sample
    gets a .json.

    With `expected` the shard replaces the one of a finished dataset, and only if it comes out the same.
    """

    source: Source
    folder: Path
    plan: SplitPlan
    number: int
    layout: SplitFormat
    encoding: Encoding
    annotated: bool
    digest: str
    expected: Shard | None = None

    def __str__(self) -> str:
        return f"shard {self.plan.names(self.number).file}"

    def run(self, report: Report) -> ShardRecord:
        """The record of the shard in short, which is on the disk then; at once if it was there already.

        Raises:
            ValueError: the shard is not the expected one; the old files stay.
            OSError: a source that cannot be read, or a full disk.
        """
        if self.expected is None:
            record = self._read_record()
            if record is not None:
                report(self.plan.start(self.number + 1) - self.plan.start(self.number))
                return record.in_short()
        record = self._write(report)
        if self.expected is None:
            write_atomically(self._record_path, json.dumps(asdict(record)))
        return record.in_short()

    @property
    def _record_path(self) -> Path:
        return record_file(self.folder, self.plan.names(self.number).index)

    def _read_record(self) -> ShardRecord | None:
        record = read_record(self._record_path)
        if record is None or record.task != self.digest:
            return None
        if record.shard.samples == 0:
            return record
        files = ((record.shard.file, record.shard.sha256), (record.shard.index, record.shard.index_sha256))
        for name, expected in (*files, (record.shard.names, record.names_sha256)):
            path = self.folder / name
            if not path.is_file() or file_sha256(path) != expected:
                return None
        return record

    def _write(self, report: Report) -> ShardRecord:
        plan, names = self.plan, self.plan.names(self.number)
        target = self.folder / names.file
        first = plan.start(self.number)
        content = ShardContent(self.layout, self.encoding)
        with _partial(self.folder / WORK_FOLDER / names.file) as temporary:
            # Outermost, since closing a file writes, too.
            with explain_full_disk(target, plan.bytes // plan.shards), open(temporary, "wb") as file:
                tar = TarWriter(file)
                for place, entry in enumerate(plan.entries(self.number), first):
                    try:
                        data = self.source.read(plan.listing.split, entry)
                        annotations = self.source.annotations(plan.listing.split, entry) if self.annotated else None
                        content.add(tar, plan.prefix, place, entry=entry, data=data, annotations=annotations)
                    except MissingImageError as error:
                        content.leave_out(entry, str(error))
                    report(1)
                tar.finish()
            index = content.index()
            index_bytes, names_bytes = npy(index), content.names()
            shard = Shard(
                file=names.file,
                samples=len(index),
                bytes=tar.position,
                sha256=tar.sha256.hexdigest(),
                index=names.index,
                index_sha256=hashlib.sha256(index_bytes).hexdigest(),
                first=first,
            )
            if self.expected is not None and self.expected != shard:
                raise ValueError(_changed(names.file, self.expected, shard))
            if len(index):
                os.replace(temporary, target)
                sync_folder(self.folder)
                write_atomically(self.folder / names.index, index_bytes)
                write_atomically(self.folder / names.names, names_bytes)
        return make_record(self.digest, plan.split, shard, content)


def make_record(task: str, split: str, shard: Shard, content: ShardContent) -> ShardRecord:
    """The record of a shard with this content."""
    return ShardRecord(
        task=task,
        split=split,
        shard=shard,
        names_sha256=hashlib.sha256(content.names()).hexdigest(),
        broken=len(content.quarantined),
        quarantined=content.quarantined,
        foreign=content.foreign,
        converted=content.converted,
        shrunk=content.shrunk,
        labels={str(label): count for label, count in sorted(content.labels.items()) if count},
        sums=content.sums,
        smallest=content.smallest,
        largest=content.largest,
    )


def record_file(folder: Path, index: str) -> Path:
    """Where a dataset that is being written keeps the record of the shard with that index."""
    return folder / WORK_FOLDER / f"{Path(index).stem}.tar.json"


def read_record(path: Path) -> ShardRecord | None:
    """A record that an earlier run left; None if there is none, or a damaged one."""
    try:
        fields: dict[str, Any] = json.loads(path.read_text())
        fields["shard"], fields["sums"] = Shard(**fields["shard"]), Sums(**fields["sums"])
        fields["quarantined"] = [(name, reason) for name, reason in fields["quarantined"]]
        fields["smallest"], fields["largest"] = tuple(fields["smallest"]), tuple(fields["largest"])
        return ShardRecord(**fields)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def npy(index: NDArray[np.void]) -> bytes:
    """An index as the bytes of its file."""
    buffer = BytesIO()
    np.save(buffer, index, allow_pickle=False)
    return buffer.getvalue()


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A file name of its own, on a disk that many hosts may share; the file is gone at the end unless renamed."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(6)}.partial")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _changed(file: str, expected: Shard, found: Shard) -> str:
    return (
        f"shard {file}: manifest lists {expected.samples} samples with sha256 {expected.sha256[:12]}, the source now "
        f"gives {found.samples} with {found.sha256[:12]}: the source or the libraries have changed since; the old file "
        "is kept. Restore them, or write the whole dataset to another --out"
    )
