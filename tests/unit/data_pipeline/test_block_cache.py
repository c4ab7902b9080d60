"""The cache gives back what was fetched, fetches once for all, stays within its bound, and mends what is damaged."""

import errno
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.block_cache import BlockCache, open_cache

PATIENT = 60.0


def must_not() -> bytes:
    raise AssertionError("fetched again")


def get(cache: BlockCache, key: str, data: bytes) -> memoryview:
    found = cache.get(key, lambda: data)
    assert found is not None
    return found


def entries(cache: BlockCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir() if not path.name.startswith("."))


def age(cache: BlockCache, key: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(cache.folder / key, (then, then))


@pytest.fixture
def cache(tmp_path: Path) -> BlockCache:
    return BlockCache(tmp_path / "cache", 1_000_000)


def test_an_entry_is_fetched_once_and_mapped(cache: BlockCache) -> None:
    assert not cache.holds("a")
    assert get(cache, "a", b"some bytes") == b"some bytes"
    again = cache.get("a", must_not)
    assert again == b"some bytes"
    assert isinstance(again.obj, object)
    assert type(again.obj).__name__ == "mmap"
    assert cache.holds("a")
    copy = pickle.loads(pickle.dumps(cache))  # noqa: S301 - written above
    assert copy.get("a", must_not) == b"some bytes"


def test_a_dropped_entry_stays_with_who_has_it(cache: BlockCache) -> None:
    view = get(cache, "a", b"old")
    cache.drop("a")
    assert get(cache, "a", b"new") == b"new"
    assert view == b"old"


@pytest.mark.parametrize("damage", [b"", b"sh", b"some bytez01234567", b"some bytes"])
def test_a_damaged_entry_is_fetched_again(cache: BlockCache, damage: bytes) -> None:
    get(cache, "a", b"some bytes")
    (cache.folder / "a").write_bytes(damage)
    assert get(cache, "a", b"some bytes") == b"some bytes"
    assert cache.get("a", must_not) == b"some bytes"


def test_what_fetching_raises_passes_through_and_leaves_nothing(cache: BlockCache) -> None:
    def fail() -> bytes:
        raise OSError("the store is away")

    with pytest.raises(OSError, match="the store is away"):
        cache.get("a", fail)
    assert entries(cache) == []
    assert get(cache, "a", b"x") == b"x"


def test_threads_that_want_the_same_wait_for_one(cache: BlockCache) -> None:
    calls = []

    def fetch() -> bytes:
        calls.append(1)
        time.sleep(0.05)
        return b"x" * 1000

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cache.get("a", fetch), range(8)))
    assert all(view == b"x" * 1000 for view in found)
    assert len(calls) == 1


def test_who_does_not_wait_is_told_that_it_is_being_fetched(cache: BlockCache) -> None:
    began, go_on = threading.Event(), threading.Event()

    def fetch() -> bytes:
        began.set()
        assert go_on.wait(PATIENT)
        return b"x"

    thread = threading.Thread(target=cache.get, args=("a", fetch))
    thread.start()
    assert began.wait(PATIENT)
    assert cache.get("a", must_not, wait=False) is None
    go_on.set()
    thread.join()
    assert cache.get("a", must_not, wait=False) == b"x"


def fetch_forever(cache: BlockCache, began: Any) -> None:
    def fetch() -> bytes:
        began.set()
        time.sleep(PATIENT)
        return b""

    cache.get("a", fetch)


def test_the_lock_of_a_killed_process_is_let_go(cache: BlockCache) -> None:
    context = multiprocessing.get_context("fork")
    began = context.Event()
    process = context.Process(target=fetch_forever, args=(cache, began))
    process.start()
    assert began.wait(PATIENT)
    threading.Timer(0.1, process.kill).start()
    assert get(cache, "a", b"mine") == b"mine"
    process.join()


def test_the_bound_holds_and_the_longest_unused_goes_first(cache: BlockCache) -> None:
    for number in range(7):
        get(cache, f"{number}", bytes(100_000))
        age(cache, f"{number}", 100 - number)
    assert cache.get("0", must_not) is not None  # marks it as used
    kept = get(cache, "1", b"")
    age(cache, "1", 99)
    get(cache, "7", bytes(100_000))
    assert entries(cache) == ["0", "2", "3", "4", "5", "6", "7"]
    assert kept == bytes(100_000)
    for number in range(8, 40):
        get(cache, f"{number}", bytes(100_000))
        age(cache, f"{number}", 50 - number)
        assert sum(path.stat().st_size for path in cache.folder.iterdir()) < cache.most_bytes


def test_fresh_entries_are_never_evicted(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path / "cache", 1000)
    for number in range(5):
        get(cache, f"{number}", bytes(900))
    assert entries(cache) == ["0", "1", "2", "3", "4"]


def test_leavings_of_killed_writers_are_evicted(cache: BlockCache) -> None:
    get(cache, "a", b"x")
    left = cache.folder / ".partial-b-0123"
    left.write_bytes(bytes(900_000))
    os.utime(left, (1, 1))
    get(BlockCache(cache.folder, cache.most_bytes), "c", bytes(10))
    assert not left.exists()
    assert cache.holds("a")


def test_a_full_disk_is_read_past(cache: BlockCache, monkeypatch: pytest.MonkeyPatch) -> None:
    get(cache, "old", b"x")
    age(cache, "old", 100)
    opened = Path.open

    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda path, mode: Full() if mode == "xb" else opened(path, mode))
    assert get(cache, "a", b"some bytes") == b"some bytes"
    assert not cache.holds("a")


def test_a_removed_folder_is_read_past(cache: BlockCache) -> None:
    cache.folder.rmdir()
    assert get(cache, "a", b"some bytes") == b"some bytes"
    assert not cache.folder.exists()


def test_the_environment_names_a_cache_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHERD_CACHE", str(tmp_path / "node"))
    monkeypatch.setenv("SHERD_CACHE_BYTES", "5000000")
    cache = open_cache()
    assert (cache.folder, cache.most_bytes) == (tmp_path / "node", 5_000_000)
    get(cache, "a", b"x")
    cache.close()
    assert open_cache().get("a", must_not) == b"x"
    monkeypatch.setenv("SHERD_CACHE_BYTES", "4 GB")
    with pytest.raises(
        ValueError, match=r"SHERD_CACHE_BYTES is '4 GB', expected a number of bytes, such as 4000000000"
    ):
        open_cache()


def test_a_process_has_a_cache_of_its_own_that_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHERD_CACHE", raising=False)
    monkeypatch.delenv("SHERD_CACHE_BYTES", raising=False)
    cache = open_cache(1_000_000)
    get(cache, "a", b"x")
    copy = pickle.loads(pickle.dumps(cache))  # noqa: S301 - written above
    copy.close()
    del copy
    assert cache.holds("a")
    assert cache.folder.stat().st_mode & 0o077 == 0
    process = multiprocessing.get_context("fork").Process(target=cache.close)
    process.start()
    process.join()
    assert cache.holds("a")
    cache.close()
    assert not cache.folder.exists()


def test_caches_of_killed_processes_are_removed_and_others_are_not() -> None:
    program = (
        "import os, signal; from data_pipeline.block_cache import open_cache; "
        "cache = open_cache(1000); print(cache.folder, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHERD_")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENT, env=environment, check=False
    )
    left = Path(done.stdout.strip())
    assert left.is_dir()
    mine = open_cache(1000)
    try:
        assert not left.exists()
        open_cache(1000).close()
        assert mine.folder.is_dir()
    finally:
        mine.close()
