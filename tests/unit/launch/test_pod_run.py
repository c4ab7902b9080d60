import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from launch.pod_run import AGAIN, Marks, judge, run_pod


def marks(word: dict[str, object] | None = None, *checkpoints: str, written: int = 1, is_run: bool = True) -> Marks:
    return Marks(b"" if word is None else json.dumps(word).encode(), written, frozenset(checkpoints), is_run)


DONE = {"status": "done", "step": 9}
PREEMPTED = {"status": "preempted", "step": 5}
FAILED = {"status": "failed", "error": "rank 3 has ended", "cause": "lost"}
NEW = marks(None, is_run=False)


@pytest.mark.parametrize(
    ("before", "after", "launcher", "was_asked", "code", "why"),
    [
        (NEW, marks(DONE), 0, False, 0, "the run is done"),
        (NEW, marks(DONE), -9, True, 0, "the run is done"),
        (NEW, NEW, 0, False, 0, "done"),
        (NEW, marks(PREEMPTED, "c/5"), 0, True, AGAIN, "was asked to leave; the next start goes on from c/5"),
        (NEW, marks(PREEMPTED), 0, True, AGAIN, "was asked to leave; no checkpoint was saved yet"),
        (NEW, marks(None), -15, True, AGAIN, "was asked to leave"),
        (NEW, marks(FAILED), 1, True, AGAIN, "was asked to leave"),
        (NEW, marks(PREEMPTED, "c/5"), 0, False, 0, "was asked to stop, not by way of this pod; .*c/5"),
        (NEW, marks(PREEMPTED, "c/5"), 1, False, AGAIN, "was asked to stop"),
        (NEW, marks(FAILED), 1, False, 1, r"has failed \(rank 3 has ended\); it had saved no checkpoint"),
        (marks(None, "c/5"), marks(FAILED, "c/5"), 1, False, 1, "it had saved no checkpoint since its start"),
        (marks(None, "c/5"), marks(FAILED, "c/9"), 1, False, AGAIN, "it had saved a checkpoint since its start"),
        (
            NEW,
            marks(None),
            -9,
            False,
            1,
            "the launcher ended with -9, and exit.json does not say why; .* no checkpoint",
        ),
        (NEW, marks(None, "c/5"), -9, False, AGAIN, "ended with -9.* it had saved a checkpoint since its start"),
        (marks(DONE), marks(DONE), 1, False, 1, "ended with 1, and exit.json does not say why"),
        (marks(PREEMPTED), marks(PREEMPTED), 0, False, 1, "ended with 0, and exit.json does not say why"),
        (marks(DONE), marks(DONE, written=2), 0, False, 0, "the run is done"),
    ],
)
def test_the_code_says_whether_to_start_again(
    *, before: Marks, after: Marks, launcher: int, was_asked: bool, code: int, why: str
):
    ending = judge(before, after, launcher=launcher, was_asked=was_asked)
    assert ending.code == code
    assert re.search(why, ending.why)


def test_marks_are_those_of_the_run_and_of_runs_inside(tmp_path: Path):
    assert Marks.of(tmp_path / "none") == Marks(b"", 0, frozenset(), False)
    for name in (".lock", "checkpoints/step-00000005", "scratch-seed0/checkpoints/step-00000002", "figures"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "exit.json").write_text(json.dumps(DONE))
    found = Marks.of(tmp_path)
    assert found.checkpoints == {"checkpoints/step-00000005", "scratch-seed0/checkpoints/step-00000002"}
    assert found.is_run
    assert found.news_since(NEW) == DONE
    assert found.news_since(found) is None


def test_what_another_pod_writes_is_waited_for(tmp_path: Path):
    (tmp_path / ".lock").mkdir()
    writes = threading.Timer(0.3, lambda: (tmp_path / "exit.json").write_text(json.dumps(DONE)))
    writes.start()
    said: list[str] = []
    assert run_pod(tmp_path, [sys.executable, "-c", ""], is_first=False, patience=20.0, say=said.append) == 0
    writes.join()
    assert said == ["the run is done; exit code 0"]


def test_the_first_pod_knows_at_once(tmp_path: Path):
    (tmp_path / ".lock").mkdir()
    begin = time.monotonic()
    assert run_pod(tmp_path, [sys.executable, "-c", "exit(3)"], is_first=True, patience=60.0, say=print) == 1
    assert time.monotonic() - begin < 30


LAUNCHER = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
rank = subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
rank.wait()
time.sleep(1.5)  # as those of other machines are waited for
"""
RANK = """
import json, pathlib, signal, sys, time
out = pathlib.Path(sys.argv[1])
(out / ".lock").mkdir()
def save(*_):
    (out / "checkpoints/step-00000005").mkdir(parents=True)
    (out / "exit.json").write_text(json.dumps({"status": "preempted", "step": 5}))
    raise SystemExit(0)
signal.signal(signal.SIGTERM, save)
(out / "ready").touch()
time.sleep(60)
raise SystemExit(1)
"""


def test_a_request_to_leave_goes_to_the_ranks_and_not_to_their_launcher(tmp_path: Path):
    def ask() -> None:
        deadline = time.monotonic() + 30
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    asking = threading.Thread(target=ask)
    asking.start()
    said: list[str] = []
    launcher = LAUNCHER + f"open({str(tmp_path / 'left')!r}, 'w')"
    words = [sys.executable, "-c", launcher, RANK, str(tmp_path)]
    assert run_pod(tmp_path, words, is_first=True, patience=0.0, say=said.append) == AGAIN
    asking.join()
    assert (tmp_path / "left").exists()
    assert said[0] == "asked to leave: the run saves and stops"
    assert said[1].endswith("the next start goes on from checkpoints/step-00000005; exit code 75")
    assert signal.getsignal(signal.SIGTERM) == before
