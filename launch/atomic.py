"""Files and folders that are either whole or absent, whatever is killed and whenever the disk fills up."""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PARTIAL = ".partial-"
"""How the name of everything unfinished begins; see `clean_partials`."""

Guard = Callable[[], None]
"""Called just before a rename; raises when this process may no longer write here, as `WorldLock.check` does."""

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than `ulimit -f` or the file system allows",
}


def write_atomically(path: Path, content: bytes | str, guard: Guard | None = None) -> None:
    """Replaces `path` by `content` (text as UTF-8): a reader, also after a crash, sees the old bytes or the new ones.

    Raises OSError; on a full disk its errno is kept, its message tells what to do, and the earlier file is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = _fresh_sibling(path)
    with explain_full_disk(path, len(data)):
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if guard is not None:
                guard()
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, guard: Guard | None = None) -> None:
    """`value` as indented JSON. Raises ValueError for NaN and infinities, which JSON lacks, and OSError."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; expected finite numbers: write null or a string instead") from error
    write_atomically(path, text + "\n", guard)


@contextlib.contextmanager
def atomic_folder(final: Path, guard: Guard | None = None, bytes_wanted: int | None = None) -> Iterator[Path]:
    """Yields an empty folder beside `final` to write into; once synced it is renamed to `final`, on an error removed.

    `bytes_wanted`, the size of all files to come, is for the message on a full disk. Raises FileExistsError when
    `final` exists, and OSError; what else the body raises passes through.
    """
    _refuse_existing(final)
    partial = _fresh_sibling(final)
    partial.mkdir()
    try:
        yield partial
        sync_tree(partial)
        if guard is not None:
            guard()
        # os.rename would silently replace an empty folder.
        _refuse_existing(final)
        os.rename(partial, final)
        sync_folder(final.parent)
    except Exception as error:
        code = _full_disk_code(error)
        if code is None:
            raise
        wanted = bytes_wanted if bytes_wanted is not None else _bytes_in(partial)
        shutil.rmtree(partial, ignore_errors=True)
        raise _full_disk(final, code, f"{wanted:,}" if bytes_wanted is not None else f"more than {wanted:,}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def replaced_folder(out: Path, check: Callable[[], None]) -> Iterator[Path]:
    """Yields an empty folder to fill, which then takes the place of what is at `out`; on an error that stays as it was.

    `check` raises where what is there may not be replaced: it may have changed meanwhile. Raises OSError for a full
    disk, or where another process was faster.
    """
    out = Path(os.path.abspath(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, so that moving the files into place copies nothing.
    with tempfile.TemporaryDirectory(prefix=f"{PARTIAL}{out.name}-", dir=out.parent) as name:
        yield Path(name)
        check()
        if out.exists():
            shutil.rmtree(out)
        with atomic_folder(out) as partial:
            for path in Path(name).iterdir():
                path.rename(partial / path.name)


def clean_partials(folder: Path) -> list[str]:
    """Removes what killed writers left in `folder` (not below it), and returns the names.

    Only for the holder of the folder's lock: another writer's unfinished files look the same.
    """
    removed = []
    for path in sorted(folder.glob(PARTIAL + "*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        removed.append(path.name)
    return removed


def sync_tree(folder: Path) -> None:
    """Forces every file and folder in `folder`, and itself, to the disk. Raises OSError."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                _sync(path)
        sync_folder(Path(parent))


def sync_folder(folder: Path) -> None:
    """Forces the names in `folder`, so the renames done there, to the disk. Raises OSError."""
    try:
        _sync(folder)
    except OSError as error:
        # Object stores mounted as folders and some network file systems have no such operation.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


@contextlib.contextmanager
def explain_full_disk(path: Path, bytes_wanted: int) -> Iterator[None]:
    """Turns the OSError of a full disk into one of the same errno that says what did not fit and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _full_disk(path, error.errno, f"{bytes_wanted:,}") from error


def _full_disk(path: Path, code: int, wanted: str) -> OSError:
    free = shutil.disk_usage(path.parent).free
    return OSError(
        code,
        f"{path}: {_FULL[code]}: {wanted} bytes wanted, {free:,} bytes free in {path.parent}; nothing half-written was "
        "left, and what was there before is whole. Free some space (older checkpoints, other runs) and give the same "
        "command again: it goes on from what is there",
    )


def _full_disk_code(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        return error.errno if error.errno in _FULL else None
    # Libraries written in Rust, safetensors among them, give the errno in their text only.
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match[1]) if match is not None and int(match[1]) in _FULL else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fresh_sibling(path: Path) -> Path:
    return path.with_name(f"{PARTIAL}{path.name}-{secrets.token_hex(6)}")


def _refuse_existing(final: Path) -> None:
    if final.exists():
        raise FileExistsError(errno.EEXIST, f"{final} exists already; expected a new name: remove it or choose another")


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
