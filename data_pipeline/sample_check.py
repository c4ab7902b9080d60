"""A sample's bytes in a tar against its row of the index: headers, image, annotations, padding."""

import tarfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xxhash

from data_pipeline.manifest import NO_LABEL

BLOCK = tarfile.BLOCKSIZE

_EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_BEFORE_A_MEMBER = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE, *_EXTENDED)


class Fault(NamedTuple):
    """Bytes of a tar, from `start` to before `stop`, that are not what was promised; `what` says how they differ."""

    start: int
    stop: int
    what: str

    def __str__(self) -> str:
        return f"bytes {self.start:,} to {self.stop:,} {self.what}"


class Member(NamedTuple):
    """A file in a sample: offsets count from the start of the sample's bytes."""

    name: str
    header: int
    start: int
    size: int

    @property
    def stop(self) -> int:
        return self.start + self.size


class BadHeaderError(ValueError):
    """A block that is no header of a tar; `start` counts from the start of the sample's bytes."""

    def __init__(self, start: int, reason: str) -> None:
        super().__init__(reason)
        self.start = start


class Expected(NamedTuple):
    """What a sample should be: its row of the index (dtype `INDEX_DTYPE`), its number in the shard, its key, and the
    extension of its image, None in tars of others, of whose names and padding nothing more is promised.
    """

    row: np.void
    number: int
    key: str
    extension: str | None

    def __str__(self) -> str:
        return f"sample {self.number}, {self.key}"

    @property
    def image(self) -> tuple[int, int]:
        """Where the image starts and stops, from the start of the sample's bytes."""
        start = int(self.row["image_offset"]) - int(self.row["offset"])
        return start, start + int(self.row["image_length"])


def check_sample(data: bytes, expected: Expected) -> tuple[list[Fault], list[Member]]:
    """What is wrong in a sample's bytes, in order, with offsets from their start; and the files found in them."""
    start, stop = expected.image
    faults, members = [], []
    found, listed = xxhash.xxh3_64_intdigest(data[start:stop]), int(expected.row["image_hash"])
    if found != listed:
        faults.append(Fault(start, stop, f"(image of {expected}): checksum {found:016x}, expected {listed:016x}"))
    try:
        for member in read_members(data):
            members.append(member)
            faults += _member_faults(data, member, expected)
            if member.start == start and member.size != stop - start:
                return sorted(faults), members  # where the next header stands is not known
    except BadHeaderError as fault:
        end = min(fault.start + BLOCK, len(data))
        faults.append(Fault(fault.start, end, f"(header in {expected}): {fault}, expected a tar header"))
        return sorted(faults), members
    if all(member.start != start for member in members):
        at = int(expected.row["image_offset"])
        faults.append(Fault(0, stop, f"({expected}): no file begins at byte {at:,}, where the index has its image"))
    else:
        own = [member for member in members if member.start != start and _is_of(expected.key, member.name)]
        faults += _annotation_faults(data, own, expected)
    return sorted(faults), members


def read_members(data: bytes) -> Iterator[Member]:
    """The files in a sample's bytes, whatever kind of tar they come from.

    Raises:
        BadHeaderError: a block that should be a header and is none.
    """
    at, long_name, long_size = 0, None, None
    while at < len(data):
        try:
            header = tarfile.TarInfo.frombuf(data[at : at + BLOCK], "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise BadHeaderError(at, str(error)) from error
        start = at + BLOCK
        if header.type in _BEFORE_A_MEMBER:
            size = header.size
            payload = data[start : start + size]
            if header.type == tarfile.GNUTYPE_LONGNAME:
                long_name = payload.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif header.type in _EXTENDED:
                records = _pax_records(payload)
                long_name = records.get("path", long_name)
                long_size = int(records["size"]) if records.get("size", "").isdigit() else long_size
        else:
            size = header.size if long_size is None else long_size
            if header.isreg():
                yield Member(header.name if long_name is None else long_name, at, start, size)
            else:
                size = 0
            long_name = long_size = None
        at = start + size + -size % BLOCK


def _pax_records(payload: bytes) -> dict[str, str]:
    """POSIX.1-2001: `length keyword=value` and a line feed, where the length counts all of it."""
    records, at = {}, 0
    while at < len(payload):
        length, _, _ = payload[at:].partition(b" ")
        if not length.isdigit() or int(length) <= len(length):
            break
        keyword, _, value = payload[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        records[keyword.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        at += int(length)
    return records


def _member_faults(data: bytes, member: Member, expected: Expected) -> Iterator[Fault]:
    start, stop = expected.image
    is_image = member.start == start
    is_ours = expected.extension is not None
    if is_image and is_ours:
        name, fits = f"{expected.key}.{expected.extension}", member.name == f"{expected.key}.{expected.extension}"
    else:
        name, fits = f"{expected.key}.*", _is_of(expected.key, member.name) or not (is_image or is_ours)
    if not fits:
        yield Fault(member.header, member.start, f"(header in {expected}): names {member.name!r}, expected {name}")
    if is_image and member.size != stop - start:
        what = f"(header in {expected}): gives its image {member.size:,} bytes, index lists {stop - start:,}"
        yield Fault(member.header, member.start, what)
    padding = data[member.stop : member.stop + -member.size % BLOCK]
    if is_ours and any(padding):
        what = f"(padding after {member.name}, sample {expected.number}): expected zeros"
        yield Fault(member.stop, member.stop + len(padding), what)


def _is_of(key: str, name: str) -> bool:
    while name.startswith("./"):
        name = name[2:]
    return name.startswith(f"{key}.")


def _annotation_faults(data: bytes, members: list[Member], expected: Expected) -> Iterator[Fault]:
    whole = xxhash.xxh3_64()
    for member in members:
        whole.update(data[member.start : member.stop])
    found, listed = whole.intdigest(), int(expected.row["annotation_hash"])
    if found != listed:
        start, stop = (members[0].start, members[-1].stop) if members else (0, len(data))
        yield Fault(start, stop, f"(annotations of {expected}): checksum {found:016x}, expected {listed:016x}")
        return
    label = int(expected.row["label"])
    for member in members:
        text = data[member.start : member.stop]
        is_label = expected.extension is not None and member.name == f"{expected.key}.cls"
        if is_label and label != NO_LABEL and text != str(label).encode():
            yield Fault(member.start, member.stop, f"(label of {expected}): {text[:20]!r}, index lists {label}")
