"""Whether a run's folder could lie where it is to lie: what its lock and its checkpoints need of a file system."""

import errno
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from launch.atomic import PARTIAL
from pretrain.findings import Finding, counted, told_bytes
from pretrain.world import World

_BEAT_SECONDS = 3.0  # the coarsest file systems count in twos
_PROBE_BYTES = 64_000_000
_SHOWN = 4 * 1024 * 1024  # bytes written at a time


@dataclass(frozen=True)
class FileSystem:
    """What a file system did. clock: seconds by which its clock is ahead of this host's. write_rate: bytes a second,
    synced. free: bytes.
    """

    replaces: bool
    is_exclusive: bool
    renews: bool
    clock: float
    write_rate: float
    free: int


@dataclass(frozen=True)
class Seen:
    """What one process saw of a folder that rank 0 made: whether it is there, and whether it made the file in it that
    only one may make.
    """

    host: str
    is_there: bool
    has_won: bool


def existing_ancestor(folder: Path) -> Path:
    """The folder itself or, where it is not there yet, the nearest that is."""
    folder = Path(os.path.abspath(folder))
    return next(path for path in (folder, *folder.parents) if path.is_dir())


@contextmanager
def probe_folder(out: Path) -> Iterator[Path]:
    """A folder for trials on the file system of a run's folder, which is taken away again.

    Raises:
        OSError: it cannot be made.
    """
    made = Path(mkdtemp(prefix=f"{PARTIAL}doctor-", dir=existing_ancestor(out)))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def try_file_system(folder: Path, most_bytes: int = _PROBE_BYTES) -> FileSystem:
    """Do in a folder of its own what a run does in its: rename over a file, make a file that must not be there, renew
    a heartbeat, write and sync. Raises OSError.
    """
    old, new, beat = folder / "old", folder / "new", folder / "beat"
    (alone := folder / "alone").mkdir()
    old.write_text("old")
    new.write_text("new")
    os.replace(new, old)
    replaces = old.read_text() == "new" and not new.exists()
    before = time.time()
    beat.touch()
    clock = beat.stat().st_mtime - before
    return FileSystem(
        replaces,
        claim(alone) and not claim(alone),
        _renews(beat),
        clock,
        _write_rate(folder / "written", most_bytes),
        shutil.disk_usage(folder).free,
    )


def claim(folder: Path) -> bool:
    """Whether this process is the one that made the file `claim`. Raises OSError for anything but its being there."""
    try:
        os.close(os.open(folder / "claim", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    return True


def try_together(world: World, folder: Path) -> list[Seen]:
    """Every process looks for a folder that rank 0 has made, and tries to be the one that makes a file in it."""
    is_there, has_won = folder.is_dir(), False
    world.barrier()
    with suppress(OSError):
        has_won = is_there and claim(folder)
    found = world.gather([Seen(socket.gethostname(), is_there, has_won)])
    world.barrier()
    return found


def judge_file_system(found: FileSystem, where: Path) -> Finding:
    """Whether the lock and the atomic files of a run would hold there."""
    lacks = [
        name
        for name, has in (
            ("a rename over a file", found.replaces),
            ("files that only one process can make (O_EXCL)", found.is_exclusive),
            ("times of change that move on", found.renews),
        )
        if not has
    ]
    what, needed = "file system", "atomic rename, O_EXCL and times of change"
    if lacks:
        fix = "--out on a local disk, NFS 4, Lustre or the like, and not on a mounted object store"
        return Finding("problem", what, f"{where} has not: {'; '.join(lacks)}", needed, fix)
    return Finding("ok", what, f"{where} has them; its clock is {found.clock:+.2f} s from ours", needed)


def judge_sharing(seen: Sequence[Seen]) -> Finding:
    """Whether all hosts see one and the same folder."""
    what, needed = "shared folder", "the same --out on all hosts"
    blind = sorted({one.host for one in seen if not one.is_there})
    hosts = counted(len({one.host for one in seen}), "host")
    fix = "--out on a file system that all hosts mount"
    if blind:
        return Finding("problem", what, f"{', '.join(blind)} does not see what rank 0 writes", needed, fix)
    if sum(one.has_won for one in seen) != 1:
        winners = sum(one.has_won for one in seen)
        return Finding("problem", what, f"{winners} processes made the same file (O_EXCL)", "one", fix)
    return Finding("ok", what, f"{counted(len(seen), 'process')} on {hosts}: all see it, one made the lock")


def judge_space(free: int, checkpoint: int, kept: int, where: Path, *, chosen: bool) -> Finding:
    """Whether so many checkpoints fit, one more that is written before an old one goes, and the trained weights.

    chosen: the run keeps best ones as well, which can be as many again.
    """
    count = 2 * kept + 1 if chosen else kept + 1
    needed = (count + 1) * checkpoint
    what, measured = "disk space", f"{told_bytes(free)} free at {where}"
    told = f"{told_bytes(needed)}: {count} checkpoints of {told_bytes(checkpoint)}, and the trained model"
    if needed <= free:
        return Finding("ok", what, measured, told)
    fewer = "fewer --keep-checkpoints, " if kept > 1 else ""
    return Finding("problem", what, measured, told, f"{fewer}a larger --keep-every-steps, or --out on a larger disk")


def judge_saving(rate: float, checkpoint: int, seconds_between: float) -> Finding:
    """Whether a checkpoint is written before the next is due; it is written beside training, the next waits for it."""
    seconds = checkpoint / rate
    what = "checkpoints"
    measured = f"{told_bytes(checkpoint)} in {seconds:,.2f} s at {told_bytes(rate)}/s, synced"
    needed = f"one every {seconds_between:,.1f} s"
    if seconds < seconds_between / 2:
        return Finding("ok", what, measured, needed)
    return Finding("warning", what, measured, needed, "a larger --checkpoint-steps, or --out on a faster disk")


def explain(error: OSError, out: Path) -> Finding:
    """Why a probe could not be made where a run is to be."""
    where = existing_ancestor(out)
    fixes = {
        errno.EACCES: f"--out in a folder that you may write, or: chmod u+w {where}",
        errno.EROFS: "--out on a file system that is not mounted read-only",
        errno.ENOSPC: "--out on a disk that is not full",
    }
    fix = fixes.get(error.errno or 0, "--out in a folder that you may write")
    return Finding("problem", "run folder", f"cannot write in {where}: {error.strerror}", f"room for {out}", fix)


def _renews(beat: Path) -> bool:
    """Whether the time of change of a file moves on when it is renewed, as the lock's heartbeat is."""
    before, end = beat.stat().st_mtime_ns, time.monotonic() + _BEAT_SECONDS
    while time.monotonic() < end:
        time.sleep(0.01)
        os.utime(beat)
        if beat.stat().st_mtime_ns > before:
            return True
    return False


def _write_rate(path: Path, size: int) -> float:
    piece, begin = os.urandom(min(size, _SHOWN)), time.perf_counter()
    with open(path, "wb") as file:
        for _ in range(max(1, size // len(piece))):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return path.stat().st_size / (time.perf_counter() - begin)
