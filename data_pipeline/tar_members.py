"""Members and samples of any WebDataset tar, found by reading its headers only; nothing is unpacked or unpickled.

Every sample can be read from where it begins: no header far before it says anything that matters.
"""

import os
import re
from array import array
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.location import RemotePath

IMAGES = frozenset("jpg,jpeg,jpe,jfif,png,webp,avif,tif,tiff,bmp,gif,jp2,ppm,pgm,pbm,pnm,tga,npy".split(","))  # noqa: SIM905
"""The extensions of members that are taken for images."""

_BLOCK = 512
_LOCAL_WINDOW = 4096  # what lies between two images, in most tars: small members, and headers
_REMOTE_WINDOW = 8_000_000
_MOST_EXTENDED = 1_000_000  # bytes of a long name or pax header
_MOST_PADDING = 1 << 20  # bytes of zeros at the end: the largest records that tar is made to write
_MOST_MEMBERS = 1000
_REGULAR = (b"0", b"\0", b"7")
_EXTENDING = (b"x", b"g", b"L")
_WITHOUT_BYTES = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes, whatever size they state
_SPARSE = "a sparse file, whose bytes are not all here: write the tar without --sparse"


class TarError(ValueError):
    """A tar that is cut, damaged or no WebDataset; the message names the tar and the byte."""


class Member(NamedTuple):
    """A file in a tar. Offsets and size in bytes; a member with a long name has several headers, the first counts.

    `extension` is what follows the first dot of the name's last part, in lower case.
    """

    name: str
    extension: str
    offset_of_header: int
    offset: int
    size: int

    @property
    def key(self) -> str:
        """The name without the extension: what the members of one sample share."""
        folder, slash, last = self.name.rpartition("/")
        return folder + slash + last.partition(".")[0]

    @property
    def stop(self) -> int:
        """Where the next header begins."""
        return self.offset + _padded(self.size)


class Sample(NamedTuple):
    """Members with the same key, one after another; `offset` and `length` in bytes, headers and padding included."""

    key: str
    offset: int
    length: int
    members: tuple[Member, ...]


class _Header(NamedTuple):
    kind: bytes
    path: bytes
    size: int


class _Before(NamedTuple):
    """Where the first header of a member begins, and what those before the last say of it."""

    begin: int
    path: bytes | None = None
    size: int | None = None


def scan_tar(where: Path | RemotePath) -> Iterator[Sample]:
    """The samples of a tar in order; of a local one only headers are read, of a remote one windows of 8 MB.

    Raises TarError: cut, damaged, or no WebDataset; and OSError.
    """
    with TarReader(where) as tar:
        yield from tar.samples()


def choose_image(sample: Sample, asked: str | None = None) -> Member | None:
    """The member with the extension asked for, else the only image; None without one.

    A member such as `.seg.png` counts only where there is none such as `.jpg`. Raises ValueError: several images.
    """
    if asked is not None:
        wanted = asked.lower().removeprefix(".")
        return next((member for member in sample.members if member.extension == wanted), None)
    images = [member for member in sample.members if member.extension in IMAGES]
    images = images or [member for member in sample.members if member.extension.rpartition(".")[2] in IMAGES]
    if len(images) > 1:
        found = ", ".join(f".{member.extension}" for member in images)
        raise ValueError(f"sample {sample.key} has several images: {found}; choose one with --image-column EXT")
    return images[0] if images else None


class TarReader:
    """An open tar; use it in a `with`. `window`: bytes read at once, 4 kB, from a store 8 MB; `size`: its, if known.

    Raises OSError: it cannot be opened.
    """

    def __init__(self, where: Path | RemotePath, window: int | None = None, size: int | None = None) -> None:
        self._where = where
        self._windows: list[tuple[int, bytes]] = []  # the last two, since a sample may lie across a border
        if isinstance(where, RemotePath):
            self._descriptor, self._window = -1, window or _REMOTE_WINDOW
            self.size = where.size() if size is None else size
        else:
            self._descriptor, self._window = os.open(where, os.O_RDONLY), window or _LOCAL_WINDOW
            self.size = os.fstat(self._descriptor).st_size

    def __enter__(self) -> "TarReader":
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def samples(self) -> Iterator[Sample]:
        """All samples. Raises as `members`; also TarError: two samples of one key, or two members of one name."""
        hashes = array("q")  # eight bytes a sample, where the keys themselves would take a hundred
        for sample in self._runs():
            hashes.append(hash(sample.key))
            yield sample
        ordered = np.sort(np.array(hashes, np.int64))
        repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        seen: dict[str, int] = {}
        for sample in self._runs() if repeated else ():
            if hash(sample.key) in repeated and seen.setdefault(sample.key, sample.offset) != sample.offset:
                what = f"sample {sample.key} again, which was at byte {seen[sample.key]}: the members of a sample must "
                raise self._error(sample.offset, what + "stand together; write the tar anew, its files sorted by name")

    def members(self, start: int = 0) -> Iterator[Member]:
        """Regular files in order, from the header at byte `start` on; hidden ones and those without extension are not.

        Raises:
            TarError: a header whose checksum is wrong, a cut, bytes after the end, a name that leads out of the tar.
            OSError: it cannot be read.
        """
        position, before = start, None
        while position < self.size:
            block = self._peek(position, _BLOCK)
            if not any(block):
                self._check_end(position, before)
                return
            header, body = self._header(block, position), position + _BLOCK
            if header.kind in _EXTENDING:
                known = self._extend(header, body, before or _Before(position))
                position, before = self._stop(header, body), before if header.kind == b"g" else known
                continue
            if before is not None:
                path, size = before.path or header.path, header.size if before.size is None else before.size
                header = header._replace(path=path, size=size)
            begin, before = position if before is None else before.begin, None
            position = body if header.kind in _WITHOUT_BYTES else self._stop(header, body)
            # Before USTAR it was by a slash that folders were told.
            if header.kind in _REGULAR and not header.path.endswith(b"/"):
                name, extension = self._name(header.path, begin)
                if extension:
                    yield Member(name, extension, begin, body, header.size)
        raise self._error(position, "the file ends without the zeros that end a tar: it was cut; copy it again")

    def read(self, member: Member) -> bytes:
        """A member's bytes. Raises TarError and OSError."""
        start, stop = member.offset, member.offset + member.size
        return self._known(start, stop) or self._fetch(start, stop)

    def _runs(self) -> Iterator[Sample]:
        for key, run in groupby(self.members(), key=attrgetter("key")):
            members: dict[str, Member] = {}
            for member in run:
                if member.extension in members or len(members) == _MOST_MEMBERS:
                    what = f"sample {key}: a second member .{member.extension}, or over {_MOST_MEMBERS:,} of them; "
                    raise self._error(member.offset_of_header, what + "keys end at the first dot, and must differ")
                members[member.extension] = member
            found = tuple(members.values())
            start = found[0].offset_of_header
            yield Sample(key, start, found[-1].stop - start, found)

    def _header(self, block: bytes, position: int) -> _Header:
        stored, total = _number(block[148:156]), sum(block) - sum(block[148:156]) + 8 * ord(" ")
        if stored != total:
            raise self._error(position, "no tar header here: the file is damaged, compressed or no tar; copy it again")
        kind, path, size = block[156:157], block[:100].partition(b"\0")[0], _number(block[124:136])
        if size is None or kind == b"S":
            raise self._error(position, _SPARSE if kind == b"S" else "a size that is no number; write the tar anew")
        prefix = block[345:500].partition(b"\0")[0]
        return _Header(kind, prefix + b"/" + path if prefix and block[257:263] == b"ustar\0" else path, size)

    def _extend(self, header: _Header, body: int, known: _Before) -> _Before:
        """What is known of the next member after a header that extends it."""
        if header.size > _MOST_EXTENDED:
            raise self._error(body, f"a header of {header.size:,} bytes, expected {_MOST_EXTENDED:,} at most")
        data = self._peek(body, header.size)
        if header.kind == b"L":
            return known._replace(path=known.path or data.partition(b"\0")[0])  # what a pax header says counts more
        records = self._pax_records(data, body)
        path, size = records.get(b"path"), records.get(b"size")
        if any(name.startswith(b"GNU.sparse.") for name in records):
            raise self._error(body, _SPARSE)
        if header.kind == b"g" and (path is not None or size is not None):
            raise self._error(body, "path or size of all members in one pax header: expected each member's own")
        if size is not None and (not size.isdigit() or len(size) > 20):
            raise self._error(body, "a pax header whose size is no number; write the tar anew")
        return known._replace(path=path or known.path, size=known.size if size is None else int(size))

    def _pax_records(self, data: bytes, body: int) -> dict[bytes, bytes]:
        records, position = {}, 0
        while position < len(data) and data[position]:
            digits = data[position : position + 8].partition(b" ")[0]
            stop = position + int(digits) if digits.isdigit() else position
            name, mark, value = data[position + len(digits) + 1 : stop].partition(b"=")
            if not mark or not value.endswith(b"\n") or stop > len(data):
                raise self._error(body + position, "a damaged pax header; copy or write the tar again")
            records[name] = value[:-1]
            position = stop
        return records

    def _name(self, path: bytes, position: int) -> tuple[str, str]:
        """With an empty extension for what no sample has: hidden files, and what WebDataset keeps for itself."""
        name = path.decode(errors="surrogateescape")
        while name.startswith("./"):
            name = name[2:]
        folders, _, last = name.rpartition("/")
        if name.startswith("/") or ".." in folders.split("/") or "\0" in name:
            raise self._error(position, f"member {name!r} leads out of the folder it would be unpacked in: refused")
        stem, _, extension = last.partition(".")
        return name, "" if not stem or re.match("__[^/]*__(/|$)", name) else extension.lower()

    def _stop(self, header: _Header, body: int) -> int:
        stop = body + _padded(header.size)
        if stop > self.size:
            name = header.path.decode(errors="replace")
            raise self._error(body, f"member {name} goes on to byte {stop}, the file only to {self.size}: it was cut")
        return stop

    def _check_end(self, position: int, before: _Before | None) -> None:
        if before is not None:
            raise self._error(before.begin, "a header that announces a member, and after it the end of the tar")
        after = b"\0"
        if self.size - position <= _MOST_PADDING:
            after = self._fetch(position, self.size).lstrip(b"\0")
            position = self.size - len(after)
        if after:
            what = f"{self.size - position:,} bytes after the end of the tar: a copy that was not finished, or several "
            raise self._error(position, what + "tars in one file; copy it again, or write it anew")

    def _peek(self, start: int, length: int) -> bytes:
        if known := self._known(start, start + length):
            return known
        data = self._fetch(start, min(self.size, start + max(self._window, length)))
        if len(data) < length:
            raise self._error(start, f"a header ends at byte {self.size}, where {length} were expected: it was cut")
        self._windows = [*self._windows[-1:], (start, data)]
        return data[:length]

    def _known(self, start: int, stop: int) -> bytes:
        for at, data in self._windows:
            if at <= start and stop <= at + len(data):
                return data[start - at : stop - at]
        return b""

    def _fetch(self, start: int, stop: int) -> bytes:
        if isinstance(self._where, RemotePath):
            return self._where.read_range(start, stop)
        data = os.pread(self._descriptor, stop - start, start)
        if len(data) < stop - start:
            raise self._error(start + len(data), f"the file ends, expected {stop}: it was cut while it was read")
        return data

    def _error(self, position: int, what: str) -> TarError:
        return TarError(f"tar {self._where}: byte {position}: {what}")


def _number(field: bytes) -> int | None:
    """Octal digits, or the bytes after a first one of 0x80, as large sizes are written; None for anything else."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:])
    digits = field.strip(b" \0") or b"0"
    return int(digits, 8) if not digits.strip(b"01234567") else None


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
