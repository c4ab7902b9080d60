import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launch import processes
from launch.lock import FolderInUseError, LockLostError, WorldLock
from launch.processes import Process, this_process


def generations(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / ".lock").iterdir())


def leave_claim(folder: Path, age: float = 0.0, generation: int = 7, **holder: object) -> None:
    """As if the described process, by default one on another machine, held the lock and last beat `age` s ago."""
    process = dataclasses.replace(this_process(), **{"host": "elsewhere", "boot_id": "other", "pid": 4242, **holder})
    path = folder / ".lock" / f"{generation:06d}.json"
    path.parent.mkdir(exist_ok=True)
    record = {"holder": dataclasses.asdict(process), "token": "theirs", "started": 0.0, "released": False}
    path.write_text(json.dumps(record))
    os.utime(path, (time.time() - age, time.time() - age))


HOLD = """
import sys
from pathlib import Path
from launch.lock import FolderInUseError, WorldLock

lock = WorldLock(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
try:
    lock.acquire()
except FolderInUseError as error:
    print("refused", error, flush=True)
else:
    print("held", lock.generation, flush=True)
sys.stdin.readline()
"""


@contextmanager
def holders(folder: Path, count: int) -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes that wait for a line, then try to take the lock, then wait for another."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        for process in started:
            assert read_line(process) == "ready"
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_acquire_check_release_and_again(tmp_path: Path) -> None:
    with WorldLock(tmp_path) as lock:
        assert lock.generation == 1
        lock.check()
        record = json.loads((tmp_path / ".lock" / "000001.json").read_text())
        assert record["holder"] == dataclasses.asdict(this_process())
        assert record["holder"]["pid"] == os.getpid()
    lock.release()
    with WorldLock(tmp_path) as lock:
        assert lock.generation == 2
        assert generations(tmp_path) == ["000002.json"]


def test_the_same_lock_can_be_taken_again(tmp_path: Path) -> None:
    lock = WorldLock(tmp_path)
    for generation in (1, 2):
        lock.acquire()
        assert lock.generation == generation
        lock.check()
        lock.release()


def test_a_live_holder_here_is_respected_even_if_silent(tmp_path: Path) -> None:
    with WorldLock(tmp_path):
        os.utime(tmp_path / ".lock" / "000001.json", (0, 0))
        message = (
            rf"is in use by host .*, pid {os.getpid()}, generation 1, last heartbeat \d+ s ago; "
            r"wait for it, stop it \(touch .*/stop\) or choose another folder with --out$"
        )
        with pytest.raises(FolderInUseError, match=message):
            WorldLock(tmp_path).acquire()


@pytest.mark.parametrize("attempt", range(5))
def test_of_racing_processes_exactly_one_wins(tmp_path: Path, attempt: int) -> None:
    if attempt % 2:
        leave_claim(tmp_path, age=100)
    with holders(tmp_path, 4) as started:
        for process in started:
            go(process)
        answers = sorted(read_line(process) for process in started)
        assert [answer.split()[0] for answer in answers] == ["held", "refused", "refused", "refused"]
        assert all("is in use by" in answer for answer in answers[1:])
        assert generations(tmp_path) == ["000008.json" if attempt % 2 else "000001.json"]


def test_racing_threads(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    locks = [WorldLock(tmp_path) for _ in range(8)]
    refused: list[str] = []

    def start(lock: WorldLock) -> None:
        barrier.wait()
        try:
            lock.acquire()
        except FolderInUseError as error:
            refused.append(str(error))

    for round_number in range(1, 11):
        threads = [threading.Thread(target=start, args=(lock,)) for lock in locks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [lock for lock in locks if lock.generation is not None]
        assert len(refused) == 7 * round_number
        winner.check()
        winner.release()


def test_a_killed_holder_is_succeeded_at_once(tmp_path: Path) -> None:
    with holders(tmp_path, 1) as (holder,):
        go(holder)
        assert read_line(holder) == "held 1"
        with pytest.raises(FolderInUseError, match=f"pid {holder.pid}"):
            WorldLock(tmp_path).acquire()
        holder.send_signal(signal.SIGKILL)
        # Not waited for: a launcher may leave it a zombie for long.
        while processes._state_and_start(holder.pid)[0] != "Z":
            time.sleep(0.01)
        with WorldLock(tmp_path) as lock:
            assert lock.generation == 2
            lock.check()


def test_a_reused_pid_is_not_the_old_holder(tmp_path: Path) -> None:
    here = this_process()
    leave_claim(tmp_path, host=here.host, boot_id=here.boot_id, pid=here.pid, start="1")
    with WorldLock(tmp_path) as lock:
        assert lock.generation == 8


def test_a_fresh_heartbeat_elsewhere_is_respected(tmp_path: Path) -> None:
    leave_claim(tmp_path, age=20)
    with pytest.raises(FolderInUseError, match=r"host elsewhere, pid 4242, generation 7, last heartbeat 2\d s ago; .*"
                       r"if it is dead, start again in (39|4[01]) s"):  # fmt: skip
        WorldLock(tmp_path).acquire()
    assert generations(tmp_path) == ["000007.json"]


def test_another_container_on_this_machine_is_judged_by_its_heartbeat(tmp_path: Path) -> None:
    here = this_process()
    leave_claim(tmp_path, host=here.host, boot_id=here.boot_id, pid=here.pid, pid_namespace="pid:[1]", start="1")
    with pytest.raises(FolderInUseError, match="if it is dead, start again in"):
        WorldLock(tmp_path).acquire()


def test_a_stale_heartbeat_elsewhere_is_succeeded(tmp_path: Path) -> None:
    leave_claim(tmp_path, age=61)
    with WorldLock(tmp_path) as lock:
        assert lock.generation == 8
        assert generations(tmp_path) == ["000008.json"]


def test_waiting_until_the_holder_is_stale(tmp_path: Path) -> None:
    leave_claim(tmp_path, age=0)
    lock, said = WorldLock(tmp_path, heartbeat_seconds=0.1, stale_seconds=0.5), []
    lock.acquire(10, said.append)
    assert lock.generation == 8
    assert re.fullmatch(r".* was held by host elsewhere, pid 4242: going on in [12] s unless that lives", *said)
    lock.release()


def test_waiting_ends_when_the_holder_is_heard_of(tmp_path: Path) -> None:
    leave_claim(tmp_path, age=20)
    beat = threading.Timer(0.3, os.utime, (tmp_path / ".lock" / "000007.json",))
    beat.start()
    began, said = time.monotonic(), []
    with pytest.raises(FolderInUseError, match=r"in use by host elsewhere, .* last heartbeat [01] s ago"):
        WorldLock(tmp_path).acquire(10, said.append)
    assert time.monotonic() - began < 5
    assert len(said) == 1
    beat.join()


def test_waiting_in_vain(tmp_path: Path) -> None:
    leave_claim(tmp_path, age=20)
    with pytest.raises(FolderInUseError, match="if it is dead, start again in"):
        WorldLock(tmp_path).acquire(0.2, lambda _: None)
    assert generations(tmp_path) == ["000007.json"]


def test_nobody_waits_for_one_that_is_seen_alive(tmp_path: Path) -> None:
    said: list[str] = []
    began = time.monotonic()
    with WorldLock(tmp_path), pytest.raises(FolderInUseError):
        WorldLock(tmp_path).acquire(10, said.append)
    assert time.monotonic() - began < 5
    assert said == []


def test_a_claim_just_being_written_is_respected_until_stale(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    path = tmp_path / ".lock" / "000003.json"
    path.touch()
    with pytest.raises(FolderInUseError, match="in use by a process that is just starting, generation 3"):
        WorldLock(tmp_path).acquire()
    os.utime(path, (0, 0))
    with WorldLock(tmp_path) as lock:
        assert lock.generation == 4


def test_check_after_a_takeover(tmp_path: Path) -> None:
    lock = WorldLock(tmp_path)
    lock.acquire()
    leave_claim(tmp_path, generation=2)
    message = (
        "this world held generation 1, but host elsewhere, pid 4242 has taken it over as generation 2; .*Nothing more"
    )
    with pytest.raises(LockLostError, match=message):
        lock.check()
    # As the new holder does.
    (tmp_path / ".lock" / "000001.json").unlink()
    with pytest.raises(LockLostError, match="has taken it over as generation 2"):
        lock.check()
    lock.release()
    assert generations(tmp_path) == ["000002.json"]
    assert json.loads((tmp_path / ".lock" / "000002.json").read_text())["released"] is False


def test_check_after_the_lock_was_removed(tmp_path: Path) -> None:
    lock = WorldLock(tmp_path)
    lock.acquire()
    (tmp_path / ".lock" / "000001.json").unlink()
    with pytest.raises(LockLostError, match="but its lock was removed"):
        lock.check()
    (tmp_path / ".lock").rmdir()
    with pytest.raises(LockLostError, match="but its lock was removed"):
        lock.check()
    lock.release()


def test_the_heart_beats_and_does_not_bring_a_removed_claim_back(tmp_path: Path) -> None:
    lock = WorldLock(tmp_path, heartbeat_seconds=0.05, stale_seconds=1)
    lock.acquire()
    path = tmp_path / ".lock" / "000001.json"
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 10
    while path.stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert time.time() - path.stat().st_mtime < 10
    path.unlink()
    time.sleep(0.2)
    assert not path.exists()
    lock.release()


def test_a_starter_that_slept_through_two_successions_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_claim(tmp_path, age=100, generation=7)
    lock = WorldLock(tmp_path)
    real_claim = lock._claim
    slept = []

    def claim(generation: int) -> None:
        if not slept:
            slept.append(generation)
            (tmp_path / ".lock" / "000007.json").unlink()
            leave_claim(tmp_path, generation=9)
        real_claim(generation)

    monkeypatch.setattr(lock, "_claim", claim)
    with pytest.raises(FolderInUseError, match="generation 9"):
        lock.acquire()
    assert slept == [8]
    assert generations(tmp_path) == ["000009.json"]


def test_intervals_that_would_lose_a_live_holder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stale_seconds is 15, expected at least twice heartbeat_seconds"):
        WorldLock(tmp_path, heartbeat_seconds=10, stale_seconds=15)


def test_processes() -> None:
    here = this_process()
    assert here.is_observable()
    assert here.is_alive()
    assert not dataclasses.replace(here, start="1").is_alive()
    assert not dataclasses.replace(here, pid=2**22 - 1).is_alive()
    assert dataclasses.replace(here, start="").is_alive()
    assert not dataclasses.replace(here, host="x").is_observable()
    assert here.describe() == f"host {here.host}, pid {os.getpid()}"


def test_a_system_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_read", lambda _: "")
    here = this_process()
    assert here == Process(here.host, "", here.pid_namespace, os.getpid(), "")
    assert here.is_alive()
