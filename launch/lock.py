"""One world (all processes of one launch) writes a folder; a second is refused, or takes over when the first is dead.

Generation g of the lock is the file `.lock/<g>.json`: O_EXCL lets one process create it, on NFS as well. It names its
holder, and its modification time is the holder's heartbeat. Whoever finds the newest generation dead or released
claims the next; the old holder, should it still live, sees a newer generation and must write nothing more.
"""

import dataclasses
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from launch.atomic import explain_full_disk, write_json
from launch.processes import Process, this_process

_HEARTBEAT, _STALE = 10.0, 60.0  # seconds
LONG_ENOUGH = _STALE + _HEARTBEAT
"""Seconds to wait for a holder elsewhere: by then it has been heard of, or is dead."""


class FolderInUseError(RuntimeError):
    """Another world, alive as far as can be told, writes this folder."""


class LockLostError(RuntimeError):
    """Another world has taken this folder over: this process must write nothing more into it."""


class _Refusal(NamedTuple):
    """Why the folder cannot be had, and who has it.

    seconds: until its holder counts as dead, unless its heart beats; None where it is seen alive.
    """

    message: str
    who: str
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class _Claim:
    holder: Process | None
    """None while the file is being written."""
    token: str
    released: bool
    beat: float
    """Seconds since 1970, by the clock of the file system."""


class WorldLock:
    """Held by rank 0 for its world, on `folder`, from `acquire` to `release`; also a context manager.

    `heartbeat_seconds` apart a thread renews the heartbeat; a holder on another machine whose last one is older than
    `stale_seconds` counts as dead. On this machine the process itself is looked at.
    """

    def __init__(self, folder: Path, heartbeat_seconds: float = _HEARTBEAT, stale_seconds: float = _STALE) -> None:
        if not 0 < heartbeat_seconds * 2 <= stale_seconds:
            raise ValueError(
                f"{folder}: stale_seconds is {stale_seconds:g}, expected at least twice heartbeat_seconds "
                f"({heartbeat_seconds:g}): a live run would be taken for a dead one"
            )
        self.folder = folder
        self.generation: int | None = None
        self._claims = folder / ".lock"
        self._heartbeat_seconds = heartbeat_seconds
        self._stale_seconds = stale_seconds
        self._token = secrets.token_hex(8)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, wait_seconds: float = 0.0, say: Callable[[str], None] = print) -> None:
        """Claims the folder, waiting at most `wait_seconds` for the sign of a holder that may turn out to be dead.

        A job started again on another machine, or in a new container, waits `stale_seconds` for its former self, and
        says so. Raises FolderInUseError: at once where the holder is seen alive, or as soon as its heart beats.
        """
        assert self.generation is None, "acquired twice"
        self._claims.mkdir(parents=True, exist_ok=True)
        deadline, heard = time.monotonic() + wait_seconds, None
        while self.generation is None:
            newest = self._newest()
            claim = self._read(newest) if newest > 0 else None
            if newest > 0 and claim is None:
                # Removed since it was listed, or on NFS before: the next look will find its successor.
                time.sleep(0.05)
                continue
            refusal = self._refusal(newest, claim) if claim is not None else None
            if claim is None or refusal is None:
                self._claim(newest + 1)
                continue
            has_beaten = heard is not None and (newest, claim.beat) != heard
            if refusal.seconds is None or has_beaten or time.monotonic() >= deadline:
                raise FolderInUseError(refusal.message)
            if heard is None:
                heard = (newest, claim.beat)
                say(f"{self.folder} was held by {refusal.who}: going on in {refusal.seconds:.0f} s unless that lives")
            time.sleep(min(1.0, wait_seconds / 10))
        for generation in self._generations():
            if generation < self.generation:
                self._path(generation).unlink(missing_ok=True)
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, args=(self._path(self.generation),), daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Call before every rename. Raises LockLostError when another world holds the folder, or the lock is gone."""
        assert self.generation is not None, "check before acquire"
        newest = self._newest()
        # The file is opened, not only listed: on NFS that asks the server, where a listing may be a minute old.
        claim = self._read(newest) if newest > 0 else None
        if claim is not None and newest == self.generation and claim.token == self._token:
            return
        if claim is None or claim.holder is None or newest <= self.generation:
            found = "its lock was removed"
        else:
            found = f"{claim.holder.describe()} has taken it over as generation {newest}"
        raise LockLostError(
            f"{self.folder}: this world held generation {self.generation}, but {found}; it was silent for too long "
            "(suspended, or cut off from the storage) or was started a second time. Nothing more is written from here"
        )

    def release(self) -> None:
        """Lets the next world in at once. Without it (a crash) it is let in as soon as this process is seen dead."""
        if self.generation is None:
            return
        self._stop.set()
        assert self._thread is not None
        self._thread.join()
        generation, self.generation, self._thread = self.generation, None, None
        claim = self._read(generation)
        if claim is not None and claim.token == self._token:
            write_json(self._path(generation), self._record(released=True))

    def __enter__(self) -> "WorldLock":
        if self.generation is None:
            self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _claim(self, generation: int) -> None:
        path = self._path(generation)
        record = json.dumps(self._record(released=False))
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return
        written = False
        try:
            with explain_full_disk(path, len(record)), os.fdopen(descriptor, "w") as file:
                file.write(record)
                file.flush()
                os.fsync(descriptor)
            # A starter that slept since it looked can create a generation already superseded and removed.
            written = self._newest() == generation
        finally:
            if not written:
                path.unlink(missing_ok=True)
        if written:
            self.generation = generation

    def _refusal(self, generation: int, claim: _Claim) -> _Refusal | None:
        """Why the folder cannot be had now; None when its holder is dead or has released it."""
        if claim.released:
            return None
        age = max(0.0, self._file_system_now() - claim.beat)
        here = claim.holder is not None and claim.holder.is_observable()
        if here and claim.holder is not None and not claim.holder.is_alive():
            return None
        if not here and age > self._stale_seconds:
            return None
        who = "a process that is just starting" if claim.holder is None else claim.holder.describe()
        advice = f"wait for it, stop it (touch {self.folder / 'stop'}) or choose another folder with --out"
        seconds = None if here else self._stale_seconds - age + 1
        if seconds is not None:
            advice += f"; if it is dead, start again in {seconds:.0f} s"
        text = f"{self.folder} is in use by {who}, generation {generation}, last heartbeat {age:.0f} s ago; {advice}"
        return _Refusal(text, who, seconds)

    def _beat(self, path: Path) -> None:
        while not self._stop.wait(self._heartbeat_seconds):
            try:
                # Not a write: that would bring back a file which the next holder has removed.
                os.utime(path)
            except FileNotFoundError:
                return
            except OSError:
                # The storage is away for a moment: the next beat, or the run's own writing, will tell.
                continue

    def _record(self, released: bool) -> dict[str, object]:
        holder = dataclasses.asdict(this_process())
        return {"holder": holder, "token": self._token, "started": time.time(), "released": released}

    def _read(self, generation: int) -> _Claim | None:
        """None when the file is gone."""
        try:
            with open(self._path(generation), "rb") as file:
                beat = os.fstat(file.fileno()).st_mtime
                text = file.read()
        except FileNotFoundError:
            return None
        try:
            record = json.loads(text)
        except ValueError:
            return _Claim(holder=None, token="", released=False, beat=beat)
        return _Claim(Process(**record["holder"]), record["token"], record["released"], beat)

    def _generations(self) -> list[int]:
        try:
            names = os.listdir(self._claims)
        except FileNotFoundError:
            return []
        return [int(name.removesuffix(".json")) for name in names if name.removesuffix(".json").isdecimal()]

    def _newest(self) -> int:
        return max(self._generations(), default=0)

    def _path(self, generation: int) -> Path:
        return self._claims / f"{generation:06d}.json"

    def _file_system_now(self) -> float:
        # Heartbeats are stamped by the file server, whose clock need not agree with ours.
        probe = self._claims / f".partial-clock-{secrets.token_hex(6)}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)
