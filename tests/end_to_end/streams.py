"""A command that streams a dataset, watched while it does, and the rows that it has shown.

Test files cannot import this under pytest's importlib mode: they get it as the fixture `streams`.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

LANES = 12
Rows = dict[int, tuple[int, int, str]]
"""Sample, label and a digest of the pixels, by position."""


class Streaming:
    """`stream_process.py`, started; what it says and shows goes into the folder."""

    def __init__(
        self, runs: "Runs", data: object, folder: Path, environment: Mapping[str, str], *options: object
    ) -> None:
        self._shown = folder / f"stream-{time.monotonic_ns()}.jsonl"
        words = runs.python(runs.HERE / "stream_process.py", data, self._shown, "--lanes", LANES, *options)
        self._child = runs.Child(words, self._shown, environment)

    @property
    def batches(self) -> int:
        """How many it has shown by now."""
        return self._shown.read_text().count("\n") if self._shown.exists() else 0

    @property
    def has_ended(self) -> bool:
        """Whether its own process has."""
        return self._child.process.poll() is not None

    def wait_until(self, is_reached: Callable[[], bool]) -> None:
        """Return as soon as the condition holds; AssertionError if the command ends before."""
        self._child.wait_until(is_reached)

    def end(self, timeout: float = 100) -> "Runs.Finished":
        """Wait for its end; AssertionError if it takes longer, or leaves a process behind."""
        finished = self._child.wait(timeout)
        assert self._child.is_gone(), f"processes remain: {self._child.members()}"
        return finished

    def rows(self) -> Rows:
        """What it has shown; AssertionError for a position shown twice."""
        rows: Rows = {}
        for line in self._shown.read_text().splitlines():
            for position, sample, label, pixels in json.loads(line):
                assert position not in rows, f"position {position} twice"
                rows[position] = (sample, label, pixels)
        return rows
