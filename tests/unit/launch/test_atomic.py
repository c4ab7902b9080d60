import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch import atomic
from launch.atomic import atomic_folder, clean_partials, sync_folder, write_atomically, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs: run the tests as root to see a real full disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_replaces_text_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "é")
    assert path.read_bytes() == "é".encode()
    write_atomically(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert names(tmp_path) == ["a.json"]


def test_the_guard_is_asked_before_the_rename(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def guard() -> None:
        assert path.read_text() == "old"
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        write_atomically(path, "new", guard)
    with pytest.raises(RuntimeError, match="lost"), atomic_folder(tmp_path / "folder", guard):
        pass
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_json_is_strict(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, None]})
    assert (tmp_path / "a.json").read_text() == '{\n  "x": [\n    1,\n    null\n  ]\n}\n'
    with pytest.raises(ValueError, match=r"a\.json: Out of range float .*expected finite numbers"):
        write_json(tmp_path / "a.json", {"x": float("nan")})


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EFBIG, "the file is larger than `ulimit -f` or the file system allows"),
    ],
)
def test_full_disk_on_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail(_: int) -> None:
        raise OSError(code, "full")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    pattern = f"a: {reason}: 3 bytes wanted, [0-9,]+ bytes free in .*what was there before is whole. Free some space"
    with pytest.raises(OSError, match=pattern) as caught:
        write_atomically(path, "new")
    assert caught.value.errno == code
    message = f"folder: {reason}: more than 5 bytes wanted"
    with pytest.raises(OSError, match=message) as caught, atomic_folder(tmp_path / "folder") as partial:
        (partial / "x").write_text("12345")
    assert caught.value.errno == code
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_other_errors_pass_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(OSError, match=r"^\[Errno 5\] broken$"):
        write_atomically(tmp_path / "a", "new")
    with pytest.raises(KeyError), atomic_folder(tmp_path / "folder"):
        raise KeyError("x")
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_storage_that_cannot_sync_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(_: int) -> None:
        raise OSError(code, "no such operation")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    sync_folder(tmp_path)


def test_real_full_disk_leaves_the_earlier_file_whole(small_disk: Path) -> None:
    path = small_disk / "weights"
    write_atomically(path, b"o" * 700_000)
    with pytest.raises(OSError, match=r"weights: the disk is full: 900,000 bytes wanted, [1-9][0-9,]+ bytes free"):
        write_atomically(path, b"n" * 900_000)
    assert path.read_bytes() == b"o" * 700_000
    folder = atomic_folder(small_disk / "step-2", bytes_wanted=800_000)
    with pytest.raises(OSError, match="step-2: the disk is full: 800,000 bytes wanted"), folder as partial:
        (partial / "a").write_bytes(b"n" * 800_000)
    assert names(small_disk) == ["weights"]
    write_atomically(path, b"n" * 100_000)
    assert path.read_bytes() == b"n" * 100_000


def test_real_full_disk_inside_a_rust_library(small_disk: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    import numpy as np

    tensors = {"w": np.zeros(2_000_000, np.uint8)}
    message = "step-1: the disk is full: more than"
    with pytest.raises(OSError, match=message) as caught, atomic_folder(small_disk / "step-1") as partial:
        numpy.save_file(tensors, partial / "model.safetensors")
    assert caught.value.errno == errno.ENOSPC
    assert names(small_disk) == []


def test_folder_appears_whole(tmp_path: Path) -> None:
    final = tmp_path / "step-1"
    with atomic_folder(final) as partial:
        assert partial.parent == tmp_path
        assert partial.name.startswith(".partial-")
        (partial / "inner").mkdir()
        (partial / "inner" / "x").write_text("1")
        assert not final.exists()
    assert (final / "inner" / "x").read_text() == "1"
    assert names(tmp_path) == ["step-1"]
    assert final.stat().st_mode & 0o777 == (tmp_path / "step-1" / "inner").stat().st_mode & 0o777


def test_every_file_and_folder_is_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    with atomic_folder(tmp_path / "final") as partial:
        (partial / "inner").mkdir()
        (partial / "inner" / "x").write_text("1")
        (partial / "y").write_text("1")
    expected = [partial / "inner" / "x", partial / "inner", partial / "y", partial, tmp_path]
    assert synced == [str(path) for path in expected]


def test_an_existing_folder_is_not_replaced(tmp_path: Path) -> None:
    final = tmp_path / "final"
    final.mkdir()
    with pytest.raises(FileExistsError, match="final exists already; expected a new name"), atomic_folder(final):
        pass
    final.rmdir()
    with pytest.raises(FileExistsError, match="final exists already"), atomic_folder(final):
        final.mkdir()
    assert names(tmp_path) == ["final"]


KILLED_IN_GUARD = """
import os, signal, sys
from pathlib import Path
from launch.atomic import atomic_folder, write_atomically

def die():
    os.kill(os.getpid(), signal.SIGKILL)

path = Path(sys.argv[2])
if sys.argv[1] == "file":
    write_atomically(path, "new", die)
else:
    with atomic_folder(path, die) as partial:
        (partial / "x").write_text("new")
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_killed_between_write_and_rename(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    if kind == "file":
        path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED_IN_GUARD, kind, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    left = [name for name in names(tmp_path) if name != "a"]
    assert len(left) == 1
    assert left[0].startswith(".partial-a-")
    assert path.read_text() == "old" if kind == "file" else not path.exists()
    assert clean_partials(tmp_path) == left
    assert names(tmp_path) == (["a"] if kind == "file" else [])


def test_clean_partials_removes_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".partial-x" / "deep").mkdir(parents=True)
    (tmp_path / ".partial-y").write_text("")
    (tmp_path / "kept").mkdir()
    (tmp_path / ".partial-link").symlink_to(tmp_path / "kept")
    (tmp_path / "kept" / ".partial-below").write_text("")
    assert clean_partials(tmp_path) == [".partial-link", ".partial-x", ".partial-y"]
    assert clean_partials(tmp_path / "missing") == []
    assert names(tmp_path) == ["kept"]
    assert names(tmp_path / "kept") == [".partial-below"]


Writer = Callable[[Path], None]


@pytest.mark.parametrize(
    "write", [lambda path: write_atomically(path, "x"), lambda path: write_json(path, 1)], ids=["text", "json"]
)
def test_missing_folder(tmp_path: Path, write: Writer) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "missing" / "a")
