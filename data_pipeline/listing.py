"""What a source holds, listed once and kept on the disk: worker processes map it, whatever the number of images."""

import hashlib
import json
import mmap
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.lib.recfunctions import repack_fields
from numpy.typing import NDArray

from data_pipeline.class_numbers import WITHOUT_LABELS, ClassNumbers
from data_pipeline.manifest import NO_LABEL
from data_pipeline.sources import Entry, Found, Outline, Source
from data_pipeline.task_pool import Report
from launch.atomic import atomic_folder, write_json

# One row an image: where its name lies among the names, its class's number, and what the source noted of it.
LISTED = np.dtype(
    [
        ("name_offset", "<u8"),
        ("name_length", "<u4"),
        ("label", "<i4"),
        ("size", "<u8"),
        ("place", "<u8"),
        ("offset", "<u8"),
    ]
)

_VERSION = 1
_CONTENTS = "listing.json"
_DIGESTED = ["name_length", "label", "size"]
_FIRST_SPLITS = ("train", "validation", "test")
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Listing:
    """The images of one split, numbered as the source lists them; `size` is bytes in all. Maps its files when asked."""

    folder: Path
    split: str
    stem: str
    samples: int
    size: int
    checksum: str

    def __len__(self) -> int:
        return self.samples

    def entry(self, number: int) -> Entry:
        """The image of that number."""
        records, names = _mapped(self)
        start, length, *rest = records[number].item()
        return Entry(_decode(names[start : start + length]), *rest)

    def names(self, numbers: Sequence[int] | NDArray[np.integer]) -> list[str]:
        """The names of the images of these numbers."""
        records, names = _mapped(self)
        rows = records[np.asarray(numbers, np.int64)]
        starts, stops = rows["name_offset"], rows["name_offset"] + rows["name_length"]
        return [_decode(names[start:stop]) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]

    def records(self) -> np.ndarray:
        """All rows (dtype `LISTED`), mapped."""
        return _mapped(self)[0]


@dataclass(frozen=True)
class Listings:
    """All splits: train, validation, test, then by the alphabet. `classes` are None where no image has a label.

    `digest` is a SHA-256 of splits, names, labels, sizes and classes, and of nothing else; `notes` are for the user.
    """

    splits: dict[str, Listing]
    classes: tuple[str, ...] | None
    digest: str
    notes: tuple[str, ...]


def write_listing(  # noqa: PLR0917 - each of them every time
    folder: Path, source: Source, outline: Outline, take: int | None, labels: bool, report: Report
) -> Listings:
    """List a source into `folder`, which is whole then, or absent; a listing that was there before is replaced.

    Of each split only the first `take` images, and labels only if asked; `report` is told how many are listed, as they
    come. Sentences that the source's `images` returns at its end, as a generator may, become notes.

    Raises:
        ValueError: no image at all, labels that are no classes, a split that is labelled in part.
        OSError: a source that cannot be read, or a full disk.
    """
    if folder.exists():
        shutil.rmtree(folder)
    numbers = ClassNumbers(outline.classes)
    writers: dict[str, _Writer] = {}
    notes: list[str] = []
    with atomic_folder(folder) as partial:
        for found in _noting(source.images(), notes):
            if found.split not in writers:
                writers[found.split] = _Writer(found.split, partial, f"{len(writers):03d}", report)
            writer = writers[found.split]
            if take is None or writer.samples < take:
                writer.add(found, numbers.number(found) if labels else NO_LABEL)
        if not writers:
            raise ValueError(f"{outline.description}: no images in it; expected at least one")
        classes, renumbering = numbers.names, numbers.renumbering
        digest = hashlib.sha256(json.dumps(classes).encode())
        splits = {name: writers[name].finish(renumbering, digest) for name in sorted(writers, key=_rank)}
        content = {"version": _VERSION, "splits": splits, "classes": classes, "digest": digest.hexdigest()}
        bare = [split for split in splits if classes is not None and not writers[split].labelled]
        notes += [f"{split}: no image has a label" for split in bare]
        write_json(partial / _CONTENTS, content | {"notes": notes})
    listings = read_listing(folder)
    assert listings is not None
    return listings


def read_listing(folder: Path) -> Listings | None:
    """A listing written before; None where there is none, or a damaged one. Raises OSError: it cannot be read."""
    try:
        content = json.loads((folder / _CONTENTS).read_text())
        if content["version"] != _VERSION:
            return None
        splits = {split: Listing(folder, split, **facts) for split, facts in content["splits"].items()}
        whole = all(_is_whole(listing) for listing in splits.values())
        classes = None if content["classes"] is None else tuple(content["classes"])
        listings = Listings(splits, classes, content["digest"], tuple(content["notes"]))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return listings if whole else None


def _noting(images: Iterator[Found], notes: list[str]) -> Iterator[Found]:
    """The images; at their end `notes` grow by the sentences that a generator returns: a tuple, or None."""
    notes.extend((yield from images) or ())


def _is_whole(listing: Listing) -> bool:
    checksum, size = xxhash.xxh3_64(), 0
    for path in _paths(listing.folder, listing.stem):
        size = path.stat().st_size
        for piece in _pieces(path):
            checksum.update(piece)
    return checksum.hexdigest() == listing.checksum and size == listing.samples * LISTED.itemsize


@lru_cache(maxsize=64)
def _mapped(listing: Listing) -> tuple[np.ndarray, mmap.mmap | bytes]:
    """Rows and names. Cached: one mapping a process."""
    names, rows = _paths(listing.folder, listing.stem)
    records = np.asarray(np.memmap(rows, LISTED, "r"))  # a row of a plain array is had sooner than one of its subclass
    if names.stat().st_size == 0:  # cannot be mapped
        return records, b""
    with open(names, "rb") as file:
        return records, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class _Writer:
    """The images of one split, buffered on their way to two files: names, and rows that point into them."""

    def __init__(self, split: str, folder: Path, stem: str, report: Report) -> None:
        self._split, self._stem, self._report = split, stem, report
        self._paths = _paths(folder, stem)
        self._buffer: list[bytes] = []
        self._rows: list[tuple[int, ...]] = []
        self._name_bytes = self._size = 0
        self._first_unlabelled = ""
        self.samples = self.labelled = 0

    def add(self, found: Found, label: int) -> None:
        """One image more."""
        name = found.name.encode("utf-8", "surrogateescape")
        self._buffer.append(name)
        self._rows.append((self._name_bytes, len(name), label, found.size, found.place, found.offset))
        self._name_bytes += len(name)
        self._size += found.size
        if label != NO_LABEL:
            self.labelled += 1
        elif self.labelled == self.samples:  # all before it were
            self._first_unlabelled = found.name
        self.samples += 1
        if len(self._rows) == _ROWS_AT_ONCE:
            self._flush()

    def finish(self, renumbering: NDArray[np.int32] | None, digest: Any) -> dict[str, Any]:
        """Give the classes their last numbers, take everything into the digest; what the `Listing` is made of.

        Raises:
            ValueError: some images have labels and others have not.
        """
        if 0 < self.labelled < self.samples:
            raise ValueError(
                f"split {self._split}: {self.samples - self.labelled:,} of {self.samples:,} images have no label, the "
                f"first is {self._first_unlabelled}; label all or none of a split, or {WITHOUT_LABELS}"
            )
        self._flush()
        checksum = xxhash.xxh3_64()
        digest.update(json.dumps([self._split, self.samples]).encode())
        for piece in _pieces(self._paths[0]):
            checksum.update(piece)
            digest.update(piece)
        with open(self._paths[1], "r+b") as file:
            for piece in _pieces(self._paths[1]):
                rows = np.frombuffer(bytearray(piece), LISTED)
                if renumbering is not None:
                    labelled = rows["label"] != NO_LABEL
                    rows["label"][labelled] = renumbering[rows["label"][labelled]]
                file.write(rows.tobytes())
                checksum.update(rows.tobytes())
                digest.update(repack_fields(rows[_DIGESTED]).tobytes())
        facts = {"stem": self._stem, "samples": self.samples, "size": self._size}
        return facts | {"checksum": checksum.hexdigest()}

    def _flush(self) -> None:
        with open(self._paths[0], "ab") as names, open(self._paths[1], "ab") as records:
            names.write(b"".join(self._buffer))
            records.write(np.array(self._rows, LISTED).tobytes())
        self._report(len(self._rows))
        self._buffer.clear()
        self._rows.clear()


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(_ROWS_AT_ONCE * LISTED.itemsize):
            yield piece


def _paths(folder: Path, stem: str) -> tuple[Path, Path]:
    """Of the names and of the rows."""
    return folder / f"{stem}.names", folder / f"{stem}.records"


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _rank(split: str) -> tuple[int, str]:
    return (_FIRST_SPLITS.index(split) if split in _FIRST_SPLITS else len(_FIRST_SPLITS), split)
