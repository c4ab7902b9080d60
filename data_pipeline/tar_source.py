"""WebDataset tars as a source: a folder of them, one, or a pattern with braces, here or in a store.

Tars are listed by their headers; an image is then a range of its tar, and its annotations lie beside it.
"""

import json
import math
import os
import re
from collections import Counter, deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, takewhile
from pathlib import Path
from queue import Full, Queue
from threading import Event
from typing import Any

import numpy as np

from data_pipeline.config import ShardConfig
from data_pipeline.location import RemotePath, locate
from data_pipeline.manifest import MANIFEST, Manifest, locate_sample, open_index, read_manifest, sample_starts
from data_pipeline.sources import Entry, Found, Outline
from data_pipeline.tar_files import find_tars, names_tars
from data_pipeline.tar_members import IMAGES, Member, TarReader, choose_image, scan_tar
from launch.redaction import redact

_NEVER_READ = IMAGES | {"pyd", "pkl", "pickle", "pth", "pt", "npz"}  # other pictures than the image, and pickles
_MOST_TEXT = 1_000_000  # bytes of a member that is kept
_BLOCK = 512
_TARS = 1 << 32  # Found.place is the number of the tar, plus this times the blocks from the sample's start to its image
_LOOKED_AT = 100
_PART = 1000
_TEXT_WINDOW = 64_000  # bytes, of a request to a store for what stands beside an image


@dataclass(frozen=True)
class TarSource:
    """Tars by their paths below a folder, and the split of each. Names are `path of the tar/key`.

    `image` and `label` are extensions of members; without the first it is found out, without the second there are no
    labels. `withdrawn`: numbers of tars, and offsets of images in them that are left out. Of each split the first
    `take` images are listed. Tars of a store are listed by `threads` at once.
    """

    folder: Path | RemotePath
    tars: tuple[str, ...]
    splits: tuple[str, ...]
    description: str
    image: str | None = None
    label: str | None = "cls"
    annotated: bool = True
    classes: tuple[str, ...] | None = None
    withdrawn: frozenset[tuple[int, int]] = frozenset()
    take: int | None = None
    threads: int = 8

    def outline(self) -> Outline:
        """What the first samples are like.

        Raises:
            ValueError: none of them has an image, or the label asked for; a tar that is damaged.
            OSError: a tar that cannot be read.
        """
        seen, images, others = set[str](), set[str](), set[str]()
        for sample in islice((sample for tar in self.tars for sample in scan_tar(self.folder / tar)), _LOOKED_AT):
            image = choose_image(sample, self.image)
            seen |= {f".{member.extension}" for member in sample.members}
            images |= {f".{image.extension}"} if image is not None else set()
            others |= {f".{m.extension}" for m in sample.members if m != image and self._may_be_text(m)}
        members = ", ".join(sorted(seen)) or "none"
        if not images:
            wanted = "an image" if self.image is None else f"a member .{self.image}"
            raise ValueError(f"{self.description}: none of the first samples has {wanted}; their members are {members}")
        note = f"images from member {', '.join(sorted(images))}"
        if f".{self.label}" in seen:
            note += f", labels from .{self.label}"
        elif self.label not in (None, "cls"):
            raise ValueError(f"--label-column {self.label}: no such member in the first samples, but {members}")
        if others:
            note += f", annotations from {', '.join(sorted(others))}"
        tars = ", ".join(f"{split} {count:,}" for split, count in Counter(self.splits).items())
        return Outline(self.classes, self.description, (note, f"tars: {tars}"), annotated=bool(others))

    def images(self) -> Generator[Found, None, tuple[str, ...]]:
        """The image of each sample, in the order of the tars; returns sentences on what was left out.

        Raises:
            ValueError: a tar that is cut or damaged, a sample of several images, a label that is no number.
            OSError: a tar that cannot be read.
        """
        listed, left_out = Counter[str](), Counter[str]()
        for found in self._in_order(listed):
            if isinstance(found, str):
                left_out[found] += 1
            elif self.take is None or listed[found.split] < self.take:
                listed[found.split] += 1
                yield found
        return tuple(f"left out: {count:,} {what}" for what, count in sorted(left_out.items()))

    def read(self, split: str, entry: Entry, limit: int | None = None) -> bytes:
        """A range of the tar."""
        where = self.folder / self.tars[entry.place % _TARS]
        length = entry.size if limit is None else min(entry.size, limit)
        if isinstance(where, RemotePath):
            return where.read_range(entry.offset, entry.offset + length)
        with open(where, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, entry.offset)
        if len(data) < length:
            raise OSError(f"tar {where}: bytes {entry.offset} to {entry.offset + length}: the file has become shorter")
        return data

    def annotations(self, split: str, entry: Entry) -> dict[str, Any]:
        """Texts by extension, and what the .json holds; members that are no text, and pickles, are left out.

        Raises:
            ValueError: the tar is not the one that was listed.
            OSError: it cannot be read.
        """
        if not self.annotated:
            return {}
        blocks, number = divmod(entry.place, _TARS)
        where, key = self.folder / self.tars[number], entry.name[len(self.tars[number]) + 1 :]
        # Usually the image comes first, and what follows it is read at once.
        start = entry.offset - blocks * _BLOCK if blocks > 1 else entry.offset + -(-entry.size // _BLOCK) * _BLOCK
        window, size = (_TEXT_WINDOW, _size(where)) if isinstance(where, RemotePath) else (None, None)
        found: dict[str, Any] = {}
        with TarReader(where, window, size) as tar:
            for member in takewhile(lambda member: member.key == key, tar.members(start)):
                text = _text(tar, member) if member.offset != entry.offset and self._may_be_text(member) else None
                if text is not None:
                    _annotate(found, member.extension, text)
        return found

    def _may_be_text(self, member: Member) -> bool:
        """Whether a member, not the image, is an annotation as far as its name tells."""
        last = member.extension.rpartition(".")[2]
        return self.annotated and member.extension != (self.label or "cls") and last not in _NEVER_READ

    def _is_lost(self, tar: TarReader, member: Member) -> bool:
        if not self.annotated or member.extension in ("json", "txt", self.label or "cls"):
            return False
        return not self._may_be_text(member) or _text(tar, member) is None

    def _list_tar(self, number: int) -> Iterator[Found | str]:
        """What is found in a tar, and sentences on what is not taken."""
        where, split, listed = self.folder / self.tars[number], self.splits[number], 0
        with TarReader(where) as tar:
            for sample in tar.samples():
                try:
                    image = choose_image(sample, self.image)
                except ValueError as error:
                    raise ValueError(f"tar {where}: byte {sample.offset}: {error}") from error
                if image is None or (number, image.offset) in self.withdrawn:
                    yield "samples without an image" if image is None else "samples that are withdrawn"
                    continue
                label = None
                for member in sample.members:
                    if member.extension == self.label:
                        label = _class_number(where, tar, member)
                    elif member != image and self._is_lost(tar, member):
                        yield f"members .{member.extension}, which are no text"
                place = number + (image.offset - sample.offset) // _BLOCK * _TARS
                yield Found(split, f"{self.tars[number]}/{sample.key}", label, image.size, place, image.offset)
                listed += 1
                if listed == self.take:
                    return

    def _in_order(self, listed: Counter[str]) -> Iterator[Found | str]:
        wanted = (n for n, split in enumerate(self.splits) if self.take is None or listed[split] < self.take)
        if isinstance(self.folder, Path):
            for number in wanted:
                yield from self._list_tar(number)
            return
        stop, waiting = Event(), deque[Queue[Any]]()
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                while True:
                    for number in islice(wanted, self.threads - len(waiting)):
                        waiting.append(Queue(4))
                        pool.submit(_fill, waiting[-1], self._list_tar(number), stop)
                    if not waiting:
                        return
                    parts = waiting.popleft()
                    while (part := parts.get()) is not None:
                        if isinstance(part, Exception):
                            raise part
                        yield from part
            finally:
                stop.set()


def open_tars(config: ShardConfig) -> TarSource:
    """The tars that `--source` names. A dataset folder of ours keeps splits and classes, but for what is withdrawn.

    Raises:
        ValueError: no tars there, or a pattern that is none.
        OSError: a folder that cannot be read.
    """
    labelled = config.labels != "none"
    options: dict[str, Any] = {
        "description": f"tars {redact(config.source)}",
        "image": config.image_column and config.image_column.lower().removeprefix("."),
        "label": (config.label_column or "cls").lower().removeprefix(".") if labelled else None,
        "annotated": config.metadata != "none",
        "take": config.take,
    }
    if not names_tars(config.source) and (locate(config.source) / MANIFEST).is_file():
        manifest = read_manifest(config.source)
        folder = manifest.tars
        splits = {name: [shard.file for shard in split.shards] for name, split in manifest.splits.items()}
        options |= {"classes": manifest.classes if labelled else None, "withdrawn": _withdrawn(manifest)}
    else:
        found = find_tars(config.source)
        folder, splits = found.folder, found.splits
    tars = [(split, file) for split, files in splits.items() for file in files]
    return TarSource(folder, tuple(file for _, file in tars), tuple(split for split, _ in tars), **options)


def _withdrawn(manifest: Manifest) -> frozenset[tuple[int, int]]:
    """Numbers of tars, counted over all splits, and offsets of the images that `withdrawn.txt` names."""
    found, first = set(), 0
    for split in manifest.splits.values():
        shards, rows = locate_sample(sample_starts(split), np.array(split.withdrawn, np.int64))
        for shard in np.unique(shards).tolist():
            offsets = open_index(manifest, split.shards[shard])["image_offset"][rows[shards == shard]]
            found |= {(first + shard, offset) for offset in offsets.tolist()}
        first += len(split.shards)
    return frozenset(found)


def _class_number(where: Path | RemotePath, tar: TarReader, member: Member) -> int:
    text = tar.read(member).strip() if member.size < 100 else b"..."
    if not re.fullmatch(rb"-?[0-9]{1,9}", text):
        what = f"{member.name} holds {text.decode(errors='replace')!r}, expected the number of a class"
        raise ValueError(f"tar {where}: byte {member.offset}: {what}; leave labels out with --labels none")
    return int(text)


def _text(tar: TarReader, member: Member) -> str | None:
    """None for what is no text, or a long one."""
    with suppress(UnicodeDecodeError):
        return tar.read(member).decode("utf-8-sig") if member.size <= _MOST_TEXT else None
    return None


def _annotate(found: dict[str, Any], extension: str, text: str) -> None:
    value = _parsed(text) if extension.rpartition(".")[2] == "json" else text
    for name, part in value.items() if extension == "json" and isinstance(value, dict) else [(extension, value)]:
        found[f"{extension}.{name}" if name in found else name] = part


def _parsed(text: str) -> Any:
    """What JSON says, null for what is no number; the text itself if it is no JSON."""
    try:
        value = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()  # halves of surrogate pairs, which cannot be written again
    except (ValueError, RecursionError):
        return text
    return value


def _finite(text: str) -> float | None:
    return float(text) if math.isfinite(float(text)) else None


def _fill(parts: Queue[Any], found: Iterator[Found | str], stop: Event) -> None:
    """Put what is found into the queue, many at once; at the end None, or the exception that ended it."""
    try:
        while not stop.is_set() and (part := list(islice(found, _PART))):
            _put(parts, part, stop)
        _put(parts, None, stop)
    except Exception as error:  # noqa: BLE001 - raised again by who reads the queue
        _put(parts, error, stop)


def _put(parts: Queue[Any], part: Any, stop: Event) -> None:
    while not stop.is_set():
        with suppress(Full):
            parts.put(part, timeout=0.1)
            return


@lru_cache(maxsize=10_000)
def _size(where: RemotePath) -> int:
    """Asked of a store once for each tar."""
    return where.size()
