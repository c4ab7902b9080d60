"""Blocks of remote shards kept on this machine, shared by its processes.

An entry is a file named by what it holds, followed by a checksum of it; whoever wants one that is not there fetches it
while the others wait. The least recently opened entries go when the cache is full.

The cache of a process and its workers is a folder of its own, in memory (/dev/shm) where that has room and else in the
temporary folder, of 4 GB or half of what is free there, whichever is less; it goes when the process ends. Two
environment variables give a cache that stays and that all jobs of a machine share: `SHERD_CACHE` names its folder (a
local disk), `SHERD_CACHE_BYTES` the most bytes it takes (for the cache of a process, too).
"""

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import xxhash

from launch.atomic import PARTIAL
from launch.processes import Process, this_process

_DEFAULT_BYTES = 4_000_000_000
_LEAST_IN_MEMORY = 1_000_000_000
_PRIVATE = "sherd-cache-"
_TRAILER = 8
_LOCKS = 1024
_FRESH_SECONDS = 2.0
_STALE_SECONDS = 600.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


class BlockCache:
    """A folder of entries of at most about `most_bytes`; picklable, and safe with any number of processes and threads.

    `owner`: whether the folder goes with this object, as it does with that of `open_cache` (never with a copy of it).
    """

    def __init__(self, folder: Path, most_bytes: int, owner: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.most_bytes = most_bytes
        self._unswept = most_bytes  # bytes written since the folder was last looked through: at first, everything
        self._remove = weakref.finalize(self, _remove_own, folder, os.getpid()) if owner else None

    def __reduce__(self) -> tuple[type["BlockCache"], tuple[Path, int]]:
        return BlockCache, (self.folder, self.most_bytes)

    def get(self, key: str, fetch: Callable[[], bytes], wait: bool = True) -> memoryview | None:
        """The entry `key`, mapped; `fetch` gives its bytes, and verifies them, where it is absent or damaged.

        Without `wait`, None where another process or thread is fetching it. What `fetch` raises passes through.
        """
        found = self.find(key)
        if found is not None:
            return found
        with self._locked(key, wait) as locked:
            if not locked:
                return None
            found = self.find(key)
            if found is not None:
                return found
            data = fetch()
            self._write(key, data)
            return self.find(key) or memoryview(
                data
            )  # the entry's pages are shared, those of `data` this process's own

    def find(self, key: str) -> memoryview | None:
        """The entry `key`, mapped; None where it is absent. A damaged one is removed."""
        path = self.folder / key
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            os.utime(path)  # marks it as used
        except FileNotFoundError:
            return None
        except ValueError:  # empty, and so not to be mapped
            self.drop(key)
            return None
        view = memoryview(mapped)
        data = view[:-_TRAILER]
        if bytes(view[-_TRAILER:]) != _checksum(data):
            self.drop(key)
            return None
        return data

    def holds(self, key: str) -> bool:
        """Whether the entry is there, without looking into it."""
        return (self.folder / key).exists()

    def drop(self, key: str) -> None:
        """Remove an entry; who has it mapped keeps it."""
        (self.folder / key).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder, if this object owns it."""
        if self._remove is not None:
            self._remove()

    @contextlib.contextmanager
    def _locked(self, key: str, wait: bool) -> Iterator[bool]:
        """One process or thread at a time for a key (or the few that share its lock); a dead one's is let go."""
        number = xxhash.xxh3_64_intdigest(key.encode()) % _LOCKS
        file = None
        try:
            file = (self.folder / f".lock-{number:04d}").open("ab")
        except OSError as error:
            if error.errno not in (*_FULL, errno.ENOENT):
                raise
        if file is None:  # no room, or the folder was removed: it goes on without a cache
            yield True
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            try:
                yield True
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # closing alone leaves it to children forked meanwhile

    def _write(self, key: str, data: bytes) -> None:
        """Keep an entry if there is room. It is not forced to the disk: its checksum tells whether it is whole."""
        temporary = self.folder / f"{PARTIAL}{key}-{secrets.token_hex(6)}"
        try:
            if self._unswept >= self.most_bytes // 64:
                self._sweep(self.most_bytes * 3 // 4 - len(data))
            with temporary.open("xb") as file:
                file.write(data)
                file.write(_checksum(data))
            temporary.replace(self.folder / key)
        except FileNotFoundError:
            return  # the folder was removed
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno not in _FULL:
                raise
            self._sweep(self.most_bytes // 4)
            return
        self._unswept += len(data) + _TRAILER

    def _sweep(self, most: int) -> None:
        """Remove the entries that were not opened for longest until `most` bytes are left; none of the last seconds."""
        now = time.time()
        entries = []
        with os.scandir(self.folder) as found:
            for entry in found:
                is_partial = entry.name.startswith(PARTIAL)
                if entry.name.startswith(".") and not is_partial:
                    continue
                safe = now - (_STALE_SECONDS if is_partial else _FRESH_SECONDS)
                with contextlib.suppress(FileNotFoundError):  # another process has removed it
                    status = entry.stat()
                    entries.append((status.st_mtime, entry.name, status.st_size, safe))
        total = sum(size for _, _, size, _ in entries)
        for used, name, size, safe in sorted(entries):
            if total <= most:
                break
            if used < safe:
                self.drop(name)
                total -= size
        self._unswept = 0


def open_cache(most_bytes: int | None = None) -> BlockCache:
    """The cache that the environment names, or one of this process and its workers (see the top of this file).

    `most_bytes`: the bound where the environment gives none. Removes what processes that were killed left behind.

    Raises:
        ValueError: SHERD_CACHE_BYTES is no number of bytes. OSError: a folder that cannot be made.
    """
    named, told = os.environ.get("SHERD_CACHE"), os.environ.get("SHERD_CACHE_BYTES")
    if told is not None:
        if not told.isdecimal() or int(told) == 0:
            raise ValueError(f"SHERD_CACHE_BYTES is {told!r}, expected a number of bytes, such as {_DEFAULT_BYTES}")
        most_bytes = int(told)
    if named is not None:
        folder = Path(named)
        folder.mkdir(parents=True, exist_ok=True)
        return BlockCache(folder, most_bytes or min(_DEFAULT_BYTES, shutil.disk_usage(folder).free // 2))
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # each makes one of its own
    parents = [Path("/dev/shm"), Path(tempfile.gettempdir())]
    for parent in parents:
        _remove_left_over(parent)
    shares = [shutil.disk_usage(parent).free // 2 // processes if parent.is_dir() else 0 for parent in parents]
    parent, share = (parents[0], shares[0]) if shares[0] >= _LEAST_IN_MEMORY else (parents[1], shares[1])
    me = this_process()
    folder = parent / f"{_PRIVATE}{_numbering(me)}-{me.pid}-{me.start}-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    return BlockCache(folder, most_bytes or min(_DEFAULT_BYTES, share), owner=True)


def _checksum(data: bytes | memoryview) -> bytes:
    return xxhash.xxh3_64_digest(data)


def _numbering(process: Process) -> str:
    """Tells machines, their starts, and containers that number their processes apart."""
    return xxhash.xxh3_64_hexdigest(f"{process.host} {process.boot_id} {process.pid_namespace}".encode())


def _remove_own(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child, which has a copy of the owner
        shutil.rmtree(folder, ignore_errors=True)


def _remove_left_over(parent: Path) -> None:
    me = this_process()
    for folder in parent.glob(f"{_PRIVATE}{_numbering(me)}-*"):
        pid, start, _ = folder.name.removeprefix(f"{_PRIVATE}{_numbering(me)}-").split("-")
        if not replace(me, pid=int(pid), start=start).is_alive():
            shutil.rmtree(folder, ignore_errors=True)
