"""Fifty kills at random moments, forty of them on two processes: every run still ends as one that nothing disturbed.

`pytest tests/soak` runs this, which takes some twenty minutes, and prints a dated line for each kill. SHERD_SOAK_SEED
repeats the moments of an earlier run, as far as the machine's own pace allows.
"""

import datetime
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

STEPS = 135
OPTIONS = ("--epochs", 6, "--keep-checkpoints", 2)


class Campaign:
    """So many kills of runs in one number of processes, one run after another, each to its end."""

    def __init__(self, runs: "Runs", data: Path, folder: Path, processes: int, say: Callable[[str], None]) -> None:
        seed = int(os.environ.get("SHERD_SOAK_SEED", random.SystemRandom().randrange(10**6)))
        self._runs, self._data, self._folder, self._processes = runs, data, folder, processes
        self._dice = random.Random(seed)
        self._say = say
        say(f"{processes} process(es), SHERD_SOAK_SEED={seed}")
        self._undisturbed = folder / "undisturbed"
        runs.finish(data, self._undisturbed, *OPTIONS, processes=processes)

    def fight(self, kills: int) -> None:
        """Kill so often; whenever a run has come to its end, compare it and begin another."""
        done = round_number = 0
        while done < kills:
            round_number += 1
            out = self._folder / f"run-{round_number}"
            while done < kills and self._reached(out) < STEPS - 10:
                how = self._kill(out)
                done += 1
                self._say(f"kill {done}/{kills}, run {round_number}: {how}")
            self._runs.finish(self._data, out, *OPTIONS, processes=self._processes)
            self._compare(out)
            self._say(f"run {round_number} ended with the weights of the undisturbed one")

    def _reached(self, out: Path) -> int:
        """The step of the newest checkpoint, 0 without any."""
        latest = out / "checkpoints/latest"
        return int(latest.read_text().strip().removeprefix("step-")) if latest.exists() else 0

    def _kill(self, out: Path) -> str:
        """One start and its violent end; returns what was done."""
        run = self._runs.train(self._data, out, *OPTIONS, processes=self._processes)
        when = self._wait(run, out)
        how = self._strike(run)
        run.wait(60)
        assert run.is_gone(40), f"processes remain: {run.members()}\n{run.said()}"
        return f"{how} {when}; checkpoint {self._reached(out)}, last line {self._runs.last_step(out)}"

    def _wait(self, run: "Runs.Child", out: Path) -> str:
        """Until a random moment; returns which."""
        moment = self._dice.choices(("start", "step", "save"), (1, 5, 3))[0]
        if moment == "start":
            seconds = self._dice.uniform(0, 6)
            time.sleep(seconds)
            return f"{seconds:.1f} s after the start"
        # Past the lines of the run before this one, which are there until it has begun.
        wanted = min(max(self._reached(out), self._runs.last_step(out)) + self._dice.randint(1, 20), STEPS - 1)
        run.wait_until(lambda: self._runs.last_step(out) >= wanted)
        if moment == "step":
            seconds = self._dice.uniform(0, 0.08)
            time.sleep(seconds)
            return f"{seconds * 1000:.0f} ms after step {wanted}"
        before = self._reached(out)
        checkpoints = out / "checkpoints"
        run.wait_until(lambda: any(checkpoints.glob(".partial-*")) or self._reached(out) > before)
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

    def _compare(self, out: Path) -> None:
        runs, undisturbed = self._runs, self._undisturbed
        assert runs.metrics(out) == runs.metrics(undisturbed)
        assert runs.newest(out).name == f"step-{STEPS:08d}"
        for file in ("model.safetensors", "optimizer.safetensors", "state.json"):
            assert (runs.newest(out) / file).read_bytes() == (runs.newest(undisturbed) / file).read_bytes(), file
        for folder in ("encoder", "figures"):
            assert runs.contents(out / folder) == runs.contents(undisturbed / folder), folder


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("campaign", [(1, 10), (2, 40)], ids=lambda campaign: f"{campaign[0]}-processes")
def test_kills(
    runs: "Runs", digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], campaign: tuple[int, int]
) -> None:
    processes, kills = campaign

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC  {text}", flush=True)

    Campaign(runs, digits, tmp_path, processes, say).fight(kills)
