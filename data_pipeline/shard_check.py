"""One tar against its index and its manifest entry, in one pass over its bytes and in memory of one sample."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.location import RemotePath
from data_pipeline.manifest import INDEX_DTYPE, Shard, key_prefix
from data_pipeline.sample_check import BLOCK, Expected, Fault, check_sample
from data_pipeline.tape import Tape
from data_pipeline.task_pool import Report

_END = 2 * BLOCK
# What headers of one writer have in common: all but name, size, checksum and the rest of a long name.
_VARIES = (slice(0, 100), slice(124, 136), slice(148, 156), slice(345, 500))


@dataclass(frozen=True)
class Verdict:
    """What reading a shard has shown: `faults` are sentences, none for a whole one; `places` its first and last key's
    numbers, in tars of ours whose index is whole."""

    split: str
    number: int
    bytes: int
    faults: tuple[str, ...]
    places: tuple[int, int] | None


@dataclass(frozen=True)
class CheckShard:
    """Checks shard `number` of a split; runs in a worker."""

    folder: Path | RemotePath
    tars: Path | RemotePath
    split: str
    extension: str
    number: int
    shard: Shard

    def __str__(self) -> str:
        return f"shard {self.shard.file}"

    @property
    def is_ours(self) -> bool:
        """Whether sherd wrote the tar, so that nothing stands in it but samples with keys that it numbered."""
        return self.shard.first >= 0

    def run(self, report: Report) -> Verdict:
        """Never raises for what it finds, be it a store that does not answer: other shards are still to be read."""
        faults: list[str] = []
        done = 0

        def count(samples: int) -> None:
            nonlocal done
            done += samples
            report(samples)

        index, keys, size = None, [], 0
        try:
            index = self._read_index()
            if self.is_ours:
                keys = self._keys_by_place(index)
            names = self._read_names()
            keys = keys or names
        except (OSError, ValueError) as error:
            faults.append(str(error))
        try:
            found, size = self._read_tar(index if keys else None, keys, count)
            faults += [f"shard {self.shard.file}: {fault}" for fault in found]
        except OSError as error:
            faults.append(f"shard {self.shard.file}: {error}")
        report(self.shard.samples - done)  # those that were not read, so that progress comes to its end
        places = None if index is None or not self.is_ours else (int(index["place"][0]), int(index["place"][-1]))
        return Verdict(self.split, self.number, size, tuple(faults), places)

    def _read_index(self) -> np.ndarray:
        path = self.folder / self.shard.index
        if not path.is_file():
            raise ValueError(f"index {self.shard.index}: missing")
        data = path.read_bytes()
        found, expected = hashlib.sha256(data).hexdigest(), self.shard.index_sha256
        if found != expected:
            raise ValueError(
                f"index {self.shard.index}: bytes 0 to {len(data):,}: sha256 {found[:16]}, expected {expected[:16]}"
            )
        index = np.load(io.BytesIO(data), allow_pickle=False)
        if index.dtype != INDEX_DTYPE or len(index) != self.shard.samples:
            raise ValueError(
                f"index {self.shard.index}: {len(index):,} rows of {len(index.dtype.names or ())} fields, expected "
                f"{self.shard.samples:,} of {len(INDEX_DTYPE.names or ())}"
            )
        return index

    def _read_names(self) -> list[str]:
        path = self.folder / self.shard.names
        if not path.is_file():
            raise ValueError(f"names {self.shard.names}: missing")
        names = path.read_bytes().decode(errors="surrogateescape").split("\n")[:-1]
        if len(names) != self.shard.samples:
            raise ValueError(
                f"names {self.shard.names}: {len(names):,} lines, expected {self.shard.samples:,}, one a sample"
            )
        if not self.is_ours and len(set(names)) != len(names):
            raise ValueError(f"names {self.shard.names}: a key stands there twice; expected each sample's own")
        return names

    def _keys_by_place(self, index: np.ndarray) -> list[str]:
        places = index["place"].astype(np.int64)
        late = np.flatnonzero(np.diff(places) <= 0)
        if places[0] < self.shard.first or len(late):
            row = int(late[0]) + 1 if len(late) else 0
            least = places[row - 1] + 1 if row else self.shard.first
            raise ValueError(
                f"index {self.shard.index}: the key of sample {row} has the number {places[row]}, expected at least "
                f"{least}: keys increase"
            )
        return [f"{key_prefix(self.split)}-{place:09d}" for place in places.tolist()]

    def _read_tar(self, index: np.ndarray | None, keys: list[str], report: Report) -> tuple[list[str], int]:
        """What is bad in it, and how many bytes it has."""
        path, listed = self.tars / self.shard.file, self.shard.bytes
        if not path.is_file():
            return [f"missing from {self.tars}"], 0
        tape = Tape(path, path.stat().st_size if isinstance(path, Path) else path.size())
        faults, headers = [], _Headers()
        if index is not None:
            faults += self._check_samples(tape, index, keys, headers, report)
        tape.skip()
        if tape.position > listed:
            faults.append(Fault(listed, tape.position, f"(behind the end): manifest lists {listed:,} bytes"))
        elif tape.position < listed and (not faults or faults[-1].start < tape.position):
            faults.append(Fault(tape.position, listed, f"(the end): missing; manifest lists {listed:,} bytes"))
        found, expected = tape.sha256.hexdigest(), self.shard.sha256
        if found != expected and not faults:
            what = f"sha256 {found[:16]} of the whole tar, expected {expected[:16]}"
            if index is None:
                faults.append(Fault(0, listed, f"(where in them only a whole index would tell): {what}"))
            else:
                faults.append(headers.odd_one(listed, what))
        return _first_of(faults), tape.position

    def _check_samples(
        self, tape: Tape, index: np.ndarray, keys: list[str], headers: "_Headers", report: Report
    ) -> Iterator[Fault]:
        for number, (row, key) in enumerate(zip(index, keys, strict=True)):
            report(1)
            offset, length = int(row["offset"]), int(row["length"])
            expected = Expected(row, number, key, self.extension if self.is_ours else None)
            if offset < tape.position:
                yield Fault(offset, offset + length, f"({expected}): in the index it begins inside the one before it")
                continue
            tape.skip(offset - tape.position)
            data = tape.take(length)
            if len(data) < length:
                yield Fault(tape.position, self.shard.bytes, f"(from {expected}, on): missing, the tar ends there")
                return
            faults, members = check_sample(data, expected)
            for member in members:
                headers.note(offset + member.header, data[member.header : member.start])
            for start, stop, what in faults:
                yield Fault(offset + start, offset + stop, what)
        yield from self._check_end(tape)

    def _check_end(self, tape: Tape) -> Iterator[Fault]:
        if not self.is_ours:
            return  # what stands between samples and behind them is theirs
        start = tape.position
        end = np.frombuffer(tape.take(_END), np.uint8)
        set_bytes = np.flatnonzero(end)
        if len(set_bytes):
            first, last = int(set_bytes[0]), int(set_bytes[-1])
            yield Fault(start + first, start + last + 1, "(the end of the archive): expected zeros")


def _first_of(faults: list[Fault]) -> list[str]:
    if not faults:
        return []
    more = len(faults) - 1
    return [f"{min(faults)}{f' (and {more:,} more after it)' if more else ''}"]


class _Headers:
    """Finds the header that is not like the others of its tar."""

    def __init__(self) -> None:
        self._members = self._different = 0
        self._first = self._first_different = 0
        self._style = b""

    def note(self, start: int, header: bytes) -> None:
        """The next header, which begins at byte `start` of the tar."""
        block = bytearray(header[:BLOCK])
        for part in _VARIES:
            block[part] = bytes(len(block[part]))
        self._members += 1
        if self._members == 1:
            self._first, self._style = start, bytes(block)
        elif block != self._style:
            self._first_different = self._first_different if self._different else start
            self._different += 1

    def odd_one(self, size: int, what: str) -> Fault:
        """Where a tar of so many bytes differs whose samples are all whole."""
        if self._members > 2 and self._different in (1, self._members - 1):
            start = self._first_different if self._different == 1 else self._first
            return Fault(start, start + BLOCK, f"(a header unlike all others): {what}")
        return Fault(0, size, f"(between samples or their files, where no other checksum reaches): {what}")
