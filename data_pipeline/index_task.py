"""One tar that is not ours, indexed by one worker process: a pure function of its bytes."""

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from data_pipeline.decode import DecodeError, read_strictly
from data_pipeline.location import RemotePath
from data_pipeline.manifest import NO_LABEL, Shard
from data_pipeline.shard_content import Encoding, ShardContent, Span, SplitFormat
from data_pipeline.shard_plan import INDEX_FOLDER, WORK_FOLDER
from data_pipeline.shard_writer import ShardRecord, make_record, npy, read_record, record_file
from data_pipeline.sources import Entry
from data_pipeline.tar_members import Member, Sample, TarReader, choose_image
from data_pipeline.task_pool import Report
from launch.atomic import write_atomically
from launch.file_hash import file_sha256

_WINDOW = 8_000_000


@dataclass(frozen=True)
class IndexTask:
    """Indexes one tar. `stem` names index and list of keys; `digest` stands for options and library versions."""

    tars: Path | RemotePath
    file: str
    folder: Path
    split: str
    stem: str
    layout: SplitFormat
    label: str | None
    image: str | None
    digest: str

    def __str__(self) -> str:
        return f"tar {self.file}"

    def run(self, report: Report) -> ShardRecord:
        """The record of the tar in short, whose index is on the disk then; at once if it was there already.

        Raises:
            ValueError: the tar is cut, damaged or no WebDataset.
            OSError: it cannot be read.
        """
        path = record_file(self.folder, f"{self.stem}.npy")
        record = read_record(path)
        if record is None or record.task != self.digest or not self._is_whole(record):
            record = self._index()
            write_atomically(path, json.dumps(asdict(record)))
        report(1)
        return record.in_short()

    def _is_whole(self, record: ShardRecord) -> bool:
        if record.shard.samples == 0:
            return True
        index, names = self.folder / record.shard.index, self.folder / record.shard.names
        return (
            index.is_file()
            and names.is_file()
            and hashlib.sha256(index.read_bytes()).hexdigest() == record.shard.index_sha256
            and hashlib.sha256(names.read_bytes()).hexdigest() == record.names_sha256
        )

    def _index(self) -> ShardRecord:
        where = self.tars / self.file
        if isinstance(where, Path):
            return self._index_file(where)
        # Hashing needs all of it, and its images too: fetched once, and not kept.
        with tempfile.NamedTemporaryFile(dir=self.folder / WORK_FOLDER, suffix=".partial") as copy:
            size = where.size()
            for start in range(0, size, _WINDOW):
                copy.write(where.read_range(start, min(start + _WINDOW, size)))
            copy.flush()
            return self._index_file(Path(copy.name))

    def _index_file(self, path: Path) -> ShardRecord:
        content = ShardContent(self.layout, Encoding())
        with TarReader(path) as tar:
            for place, sample in enumerate(tar.samples()):
                self._add(content, tar, place, sample)
            size = tar.size
        digest = file_sha256(path)
        index = npy(content.index())
        shard = Shard(
            file=self.file,
            samples=len(content.index()),
            bytes=size,
            sha256=digest,
            index=f"{INDEX_FOLDER}/{self.stem}.npy",
            index_sha256=hashlib.sha256(index).hexdigest(),
        )
        if shard.samples:
            write_atomically(self.folder / shard.index, index)
            write_atomically(self.folder / shard.names, content.names())
        return make_record(self.digest, self.split, shard, content)

    def _add(self, content: ShardContent, tar: TarReader, place: int, sample: Sample) -> None:
        image = choose_image(sample, self.image)
        if image is None:
            return  # a sample of something else, such as a text
        entry = Entry(sample.key, self._label(tar, sample), image.size)
        data = tar.read(image)
        try:
            facts, pixels = read_strictly(data)
            content.check(facts)
        except DecodeError as error:
            content.leave_out(entry, str(error))
            return
        hashes = xxhash.xxh3_64_intdigest(data), annotation_hash(tar, sample, image)
        span = Span(sample.offset, sample.length, image.offset, image.size)
        content.count(span, entry, facts, pixels, hashes=hashes, place=place)

    def _label(self, tar: TarReader, sample: Sample) -> int:
        found = [member for member in sample.members if member.extension == self.label]
        if not found:
            return NO_LABEL
        text = tar.read(found[0]).decode(errors="replace").strip()
        if not text.isdecimal():
            raise ValueError(
                f"tar {self.file}: {found[0].name} holds {text[:40]!r}, expected the number of a class; leave labels "
                "out with --labels none"
            )
        return int(text)


def annotation_hash(tar: TarReader, sample: Sample, image: Member) -> int:
    """XXH3-64 of all bytes of a sample's members but its image, in order."""
    found = xxhash.xxh3_64()
    for member in sample.members:
        if member != image:
            found.update(tar.read(member))
    return found.intdigest()
