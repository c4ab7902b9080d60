import dataclasses
import json
import os
import threading
import time
from pathlib import Path

from launch.lock import WorldLock
from launch.pod_probe import is_alive
from launch.processes import Process, this_process


def claim(out: Path, holder: Process, *, released: bool = False, generation: int = 3) -> Path:
    path = out / ".lock" / f"{generation:06d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"holder": dataclasses.asdict(holder), "token": "", "released": released}))
    return path


def test_a_heart_that_has_stopped_is_noticed(tmp_path: Path):
    claim(tmp_path, this_process())
    assert not is_alive(tmp_path, 0.1)


def test_a_run_whose_heart_beats_lives_whatever_else_it_does(tmp_path: Path):
    with WorldLock(tmp_path, heartbeat_seconds=0.05):
        assert is_alive(tmp_path, 5.0)


def test_one_heartbeat_during_the_watch_is_enough(tmp_path: Path):
    path = claim(tmp_path, this_process())
    beat = threading.Timer(0.2, lambda: os.utime(path, (time.time() + 1, time.time() + 1)))
    beat.start()
    assert is_alive(tmp_path, 5.0)
    beat.join()


def test_pods_that_do_not_hold_the_run_folder_live(tmp_path: Path):
    assert is_alive(tmp_path / "not made yet", 0.1)
    (tmp_path / ".lock").mkdir()
    assert is_alive(tmp_path, 0.1)
    claim(tmp_path, dataclasses.replace(this_process(), host="mae-node-0-0"))
    assert is_alive(tmp_path, 0.1)
    claim(tmp_path, dataclasses.replace(this_process(), pid_namespace="pid:[1]"))
    assert is_alive(tmp_path, 0.1)


def test_a_run_that_ends_lives_until_its_process_is_gone(tmp_path: Path):
    claim(tmp_path, this_process(), released=True)
    assert is_alive(tmp_path, 0.1)
    claim(tmp_path, this_process(), generation=4).write_text("")  # being written
    assert is_alive(tmp_path, 0.1)
