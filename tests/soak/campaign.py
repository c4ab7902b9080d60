"""Kills at random moments, one after another, of runs that must all end as one that nothing disturbed.

Test files cannot import this under pytest's importlib mode: they get it as the fixtures `fight` and `kind`.
"""

import datetime
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs


@dataclass(frozen=True)
class Kind:
    """What is killed: how it is started in a run folder and so many processes, and what it must come to."""

    start: Callable[[Path, int], "Runs.Child"]
    steps: int
    """Of all its parts."""
    compare: Callable[[Path, Path], None]
    """Of a run that was killed and one that was not: AssertionError where they differ."""
    parts: tuple[str, ...] = ("",)
    """Run folders within the run's, in the order in which they are filled: a teacher's own, before the student's."""


def printer(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints dated lines past pytest's capture."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC  {text}", flush=True)

    return say


def fight(runs: "Runs", folder: Path, say: Callable[[str], None], kind: Kind, *, processes: int, kills: int) -> None:
    """Kill so many runs, each in so many processes; AssertionError where one does not come to the same end."""
    Campaign(runs, kind, folder, processes, say).fight(kills)


class Campaign:
    """So many kills of runs in one number of processes, one run after another, each to its end."""

    def __init__(self, runs: "Runs", kind: Kind, folder: Path, processes: int, say: Callable[[str], None]) -> None:
        seed = int(os.environ.get("SHERD_SOAK_SEED", random.SystemRandom().randrange(10**6)))
        self._runs, self._kind, self._folder, self._processes = runs, kind, folder, processes
        self._dice = random.Random(seed)
        self._say = say
        say(f"{processes} process(es), SHERD_SOAK_SEED={seed}")
        self._undisturbed = folder / "undisturbed"
        self._finish(self._undisturbed)

    def fight(self, kills: int) -> None:
        """Kill so often; whenever a run has come to its end, compare it and begin another."""
        done = round_number = 0
        while done < kills:
            round_number += 1
            out = self._folder / f"run-{round_number}"
            while done < kills and self._reached(out) < self._kind.steps - 10:
                how = self._kill(out)
                done += 1
                self._say(f"kill {done}/{kills}, run {round_number}: {how}")
            self._finish(out)
            self._kind.compare(out, self._undisturbed)
            self._say(f"run {round_number} ended with the weights of the undisturbed one")

    def _finish(self, out: Path) -> None:
        self._runs.ended(self._kind.start(out, self._processes), out)
        assert self._last_step(out) == self._kind.steps, f"{self._last_step(out)} steps"

    def _reached(self, out: Path) -> int:
        """The step of the newest checkpoint, 0 without any; of parts, the sum."""
        found = 0
        for part in self._kind.parts:
            latest = out / part / "checkpoints/latest"
            found += int(latest.read_text().strip().removeprefix("step-")) if latest.exists() else 0
        return found

    def _last_step(self, out: Path) -> int:
        """The last step that the metrics tell of; of parts, the sum."""
        return sum(self._runs.last_step(out / part) for part in self._kind.parts)

    def _kill(self, out: Path) -> str:
        """One start and its violent end; returns what was done."""
        run = self._kind.start(out, self._processes)
        when = self._wait(run, out)
        how = self._strike(run)
        run.wait(60)
        assert run.is_gone(40), f"processes remain: {run.members()}\n{run.said()}"
        return f"{how} {when}; checkpoint {self._reached(out)}, last line {self._last_step(out)}"

    def _wait(self, run: "Runs.Child", out: Path) -> str:
        """Until a random moment; returns which."""
        moment = self._dice.choices(("start", "step", "save"), (1, 5, 3))[0]
        if moment == "start":
            seconds = self._dice.uniform(0, 6)
            time.sleep(seconds)
            return f"{seconds:.1f} s after the start"
        # Past the lines of the run before this one, which are there until it has begun.
        past = max(self._reached(out), self._last_step(out))
        wanted = min(past + self._dice.randint(1, 20), self._kind.steps - 1)
        run.wait_until(lambda: self._last_step(out) >= wanted)
        if moment == "step":
            seconds = self._dice.uniform(0, 0.08)
            time.sleep(seconds)
            return f"{seconds * 1000:.0f} ms after step {wanted}"
        before = self._reached(out)
        folders = [out / part / "checkpoints" for part in self._kind.parts]
        run.wait_until(lambda: any(any(folder.glob(".partial-*")) for folder in folders) or self._reached(out) > before)
        seconds = self._dice.uniform(0, 0.02)
        time.sleep(seconds)
        return f"{seconds * 1000:.0f} ms into a save after step {wanted}"

    def _strike(self, run: "Runs.Child") -> str:
        kinds = ["KILL", "TERM"]
        if self._processes > 1:
            kinds = ["KILL rank 0", "KILL rank 1", "KILL all", "KILL launcher", "TERM"]
        kind = self._dice.choice(kinds)
        if kind == "TERM":
            run.send(signal.SIGTERM)
        elif kind in ("KILL", "KILL launcher"):
            run.send(signal.SIGKILL)
        else:
            victim = self._rank(run, int(kind[-1])) if kind[-1].isdigit() else None
            if victim is None:  # the launcher has not started them yet
                run.send_all(signal.SIGKILL)
                return "KILL all"
            os.kill(victim, signal.SIGKILL)
        return kind

    def _rank(self, run: "Runs.Child", number: int) -> int | None:
        try:
            return run.rank(number)
        except (ValueError, FileNotFoundError, ProcessLookupError):
            return None
