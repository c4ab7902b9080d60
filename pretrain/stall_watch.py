"""A run that does not get on: each process writes down where it is and its stacks, and rank 0 says so in a line."""

import datetime
import faulthandler
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence

from launch.atomic import write_atomically
from launch.console import Console
from launch.lock import LockLostError
from launch.run_folder import RunFolder
from pretrain.roll_call import SECONDS, Place, Sign
from pretrain.session import complain, record_failure
from pretrain.world import World

_WATCHED = frozenset({"step", "read", "log", "wait", "save"})
_SHARE, _MOST = 0.5, 0.9  # of the patience: of a step, and of one that takes long as a rule, or is the first
_USUAL = 3.0  # times the longest step until now
_LOST = 30.0  # seconds beyond the patience: by then a process that talks to others has noticed that they are gone
_DEAF = 25.0  # as many: others have said who is lost, and torchrun has not killed it yet, which it does after 30 more
_JOIN = 5.0
_NAMED = 3  # processes in a message by host and pid


class StallWatch:
    """Looks on from a thread while a run trains; use it in a `with`.

    A stall is a step that has not ended after half of the world's patience or, where steps are long, after three times
    the longest one. The first may take nine tenths of the patience, and any time where it compiles; evaluation and what
    is before and after training may, too. Time in which this process was stopped, or its machine slept, does not count.

    A process that a stall keeps for longer than the patience ends if others are gone, which it may not notice itself.

    Args:
        world, run, console: of the run. Training notes in `world.place` where it is.
        loader: says what the loader is busy with.
        compiles: the first step.
    """

    def __init__(
        self,
        world: World,
        run: RunFolder,
        console: Console,
        *,
        loader: Callable[[], str],
        compiles: bool = False,
    ) -> None:
        self._world, self._run, self._console = world, run, console
        self._loader, self._compiles = loader, compiles
        self._interval = min(5.0, world.patience / 20)
        self._looked = time.monotonic()
        self._step, self._begun = world.place.step, 0
        self._quiet = self._longest = 0.0
        self._early: tuple[float, list[Sign]] | None = None
        self._is_told = False
        self._asks_after = world.patience + _LOST
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, name="stall watch", daemon=True)

    def __enter__(self) -> "StallWatch":
        self._looked = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(_JOIN)  # it may be writing to a disk that does not answer
        faulthandler.cancel_dump_traceback_later()

    def look(self, now: float) -> None:
        """See where training is, at a time by `time.monotonic`; tell of a stall, once, and of its end."""
        spent, self._looked = min(now - self._looked, 2 * self._interval), now
        place = self._world.place
        if place.step != self._step or place.stage not in _WATCHED:
            self._goes_on(place.step)
            return
        self._quiet += spent
        limit = self._limit()
        if self._quiet >= limit / 2:
            place.doing = self._loader() if place.stage == "read" else ""
            if self._early is None and self._world.rank == 0:
                self._early = now, self._world.signs()
        if self._quiet >= limit and not self._is_told:
            self._is_told = True
            self._tell(now, place)
        if self._is_told and self._quiet >= self._asks_after:
            self._asks_after = self._quiet + _LOST
            self._end_if_others_have()

    def _keep_looking(self) -> None:
        while not self._ended.wait(self._interval):
            # Where something holds Python up, such as a read from a mapped file, this thread stands still; that not.
            faulthandler.dump_traceback_later(self._world.patience + _DEAF, file=2)
            self.look(time.monotonic())

    def _limit(self) -> float:
        patience = self._world.patience
        if self._begun <= 1:
            return math.inf if self._compiles else _MOST * patience
        own = max(_SHARE * patience, _USUAL * self._longest)
        return own if self._world.size == 1 else min(own, _MOST * patience)

    def _goes_on(self, step: int) -> None:
        if self._is_told:
            self._console.say(f"going on after {self._quiet:.0f} s, step {step:,}")
        if step > self._step:
            if not self._is_told or self._begun <= 1:
                self._longest = max(self._longest, self._quiet)
            self._begun += step - self._step
            self._compiles = self._compiles and self._begun <= 1
        elif step < self._step:  # a way back to a checkpoint
            self._begun = 1
        self._world.place.doing = ""
        self._step, self._quiet, self._early, self._is_told = step, 0.0, None, False
        self._asks_after = self._world.patience + _LOST

    def _tell(self, now: float, place: Place) -> None:
        world, folder = self._world, self._run.stalls
        since = f"no step has ended for {self._quiet:.0f} s"
        where = f"step {place.step:,} ({_stage(place)})"
        if world.rank == 0:
            if world.size > 1:
                signs = world.signs()
                has_lived = None if self._early is None or now - self._early[0] < 3 * SECONDS else self._early[1]
                where = survey(world.who, signs, has_lived or ()) or where
            self._console.say(f"stalled: {since}: {where}; the stacks of each process are in {folder}")
        time_now = datetime.datetime.now(datetime.UTC)
        who = world.who[world.rank] if world.size > 1 else f"pid {os.getpid()}"
        text = f"{time_now.isoformat(timespec='seconds')}, {who}: {since}: {where}\n\n{_stacks()}"
        try:
            folder.mkdir(exist_ok=True)
            write_atomically(folder / f"{time_now:%Y%m%dT%H%M%SZ}-rank-{world.rank}.txt", text, self._run.guard)
        except (OSError, LockLostError) as error:
            complain(f"{since}: {where}, and where exactly could not be written: {error}")

    def _end_if_others_have(self) -> None:
        place = self._world.place
        error = self._world.lost(f"no step has ended for {self._quiet:.0f} s: step {place.step:,} ({place.stage})")
        if error is None or self._ended.is_set():
            return
        complain(str(error))
        if self._world.rank == 0:
            writing = threading.Thread(target=record_failure, args=(self._run, error), daemon=True)
            writing.start()
            writing.join(_JOIN)
        os._exit(1)  # whatever keeps the thread that trains would also keep it from ending


def survey(who: Sequence[str], signs: Sequence[Sign], before: Sequence[Sign] = ()) -> str:
    """Where all processes are, first those without a sign of life since `before`, then those that have come least far.

    who: each process by rank, host and pid.
    """
    groups: dict[tuple[bool, tuple[int, int]], list[int]] = {}
    for rank, sign in enumerate(signs):
        is_silent = rank < len(before) and before[rank].count == sign.count
        groups.setdefault((not is_silent, sign.progress), []).append(rank)
    parts = []
    for (lives, _), ranks in sorted(groups.items()):
        sign = signs[ranks[0]]
        silent = "" if lives else "silent since "
        if len(ranks) > _NAMED:
            parts.append(f"ranks {_spans(ranks)} {silent}at step {sign.step:,} ({sign.stage})")
        else:
            parts += [f"{who[rank]} {silent}at step {sign.step:,} ({_stage(signs[rank])})" for rank in ranks]
    return "; ".join(parts)


def _stage(where: Place | Sign) -> str:
    return f"{where.stage}: {where.doing}" if where.doing else where.stage


def _spans(numbers: Sequence[int]) -> str:
    """Of ascending numbers: `0, 2-7`."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], number]
        else:
            spans.append([number])
    return ", ".join("-".join(map(str, span)) for span in spans)


def _stacks() -> str:
    """Of all threads, without reading their source, which may lie on a disk that does not answer."""
    names = [f"{thread.ident or 0:#018x} {thread.name}\n" for thread in threading.enumerate()]
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        return f"{''.join(names)}\n{file.read().decode(errors='replace')}"
