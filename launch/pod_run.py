"""What a container on Kubernetes does: launch the training, hand a request to stop on to it, and end with a code.

Exit codes of launchers do not tell how a run has ended, and what starts a job again sees nothing but exit codes:
    0       the run is done, or was stopped on purpose by the file `stop` in its folder
    AGAIN   a start more goes on: this pod was asked to leave, or the run failed after it had saved a checkpoint
    1       the run failed with no checkpoint since its start, so may well fail again
"""

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from launch.run_folder import RunFolder

AGAIN = 75
"""The code that sysexits.h calls a temporary failure."""

_LOOK_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Marks:
    """What a start leaves in a run folder, for comparing before and after it."""

    word: bytes
    """Of exit.json; empty where there is none."""
    written: int
    """When, in nanoseconds."""
    checkpoints: frozenset[str]
    is_run: bool
    """Whether a world has ever locked the folder."""

    @classmethod
    def of(cls, out: Path) -> "Marks":
        """As they are now. A file that is being replaced on a file server may be read as absent."""
        run, word, written = RunFolder(out), b"", 0
        with suppress(OSError), open(run.exit, "rb") as file:
            word, written = file.read(), os.fstat(file.fileno()).st_mtime_ns
        # A benchmark's runs are one level further down.
        found = [*out.glob("checkpoints/step-*"), *out.glob("*/checkpoints/step-*")]
        names = frozenset(path.relative_to(out).as_posix() for path in found)
        return cls(word, written, names, (out / ".lock").exists())

    def news_since(self, before: "Marks") -> dict[str, object] | None:
        """exit.json, if it was written since; None if not."""
        if not self.word or (self.word, self.written) == (before.word, before.written):
            return None
        news = json.loads(self.word)
        assert isinstance(news, dict)
        return news


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a pod ends: its exit code, and a line that says why."""

    code: int
    why: str


def run_pod(out: Path, words: Sequence[str], *, is_first: bool, patience: float, say: Callable[[str], None]) -> int:
    """Runs the launcher with its words to its end, and returns the exit code for the container.

    TERM goes to the processes that train, which save and leave. It does not go to their launcher: that would kill them
    half a minute later. Where `is_first` is not set, the word of how the run ended comes from another pod, and is
    waited for, at most `patience` seconds.

    Raises FileNotFoundError where there is no such launcher.
    """
    before = Marks.of(out)
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True

    earlier = signal.signal(signal.SIGTERM, ask)
    try:
        process = subprocess.Popen(words)
        told: set[int] = set()
        while process.poll() is None:
            if asked:
                if not told:
                    say("asked to leave: the run saves and stops")
                told |= _terminate(process.pid, told)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_SECONDS)
        deadline = time.monotonic() + (0 if is_first else patience)
        after = Marks.of(out)
        while after.is_run and after.news_since(before) is None and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            after = Marks.of(out)
    finally:
        signal.signal(signal.SIGTERM, earlier)
    ending = judge(before, after, launcher=process.returncode, was_asked=asked)
    say(f"{ending.why}; exit code {ending.code}")
    return ending.code


def judge(before: Marks, after: Marks, *, launcher: int, was_asked: bool) -> Ending:
    """What the end of a launcher means, given its exit code, the folder before and after, and whether TERM has come."""
    news = after.news_since(before) or {}
    status = news.get("status")
    if status == "done":
        return Ending(0, "the run is done")
    if launcher == 0 and not after.is_run:
        return Ending(0, "done")  # a command that trains nothing
    if was_asked:
        return Ending(AGAIN, f"this pod was asked to leave; {_saved(after)}")
    if status == "preempted":
        # Nobody but the file `stop` asks a run without asking a pod; where it was another pod, that ends with AGAIN.
        code = 0 if launcher == 0 else AGAIN
        return Ending(code, f"the run was asked to stop, not by way of this pod; {_saved(after)}")
    reason = f"the launcher ended with {launcher}, and exit.json does not say why"
    if status == "failed":
        told = str(news.get("error")).partition("\n")[0]
        reason = f"the run has failed ({told})"
    if after.checkpoints - before.checkpoints:
        return Ending(AGAIN, f"{reason}; it had saved a checkpoint since its start, and can go on")
    return Ending(1, f"{reason}; it had saved no checkpoint since its start")


def _saved(marks: Marks) -> str:
    newest = max(marks.checkpoints, default=None)
    return "no checkpoint was saved yet" if newest is None else f"the next start goes on from {newest}"


def _terminate(launcher: int, told: set[int]) -> set[int]:
    """Sends TERM to the launcher's children, or to itself if there never were any; never twice. Returns whom."""
    those = _children(launcher) - told
    if not those and not told:
        those = {launcher}
    for pid in those:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return those


def _children(parent: int) -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The program's name, in brackets, may itself hold brackets; state and parent follow it.
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and fields[0] != "Z":
                found.add(int(path.parent.name))
    return found
