"""Which processes of a world still live and where they are, so that those that wait in vain can say for whom."""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

SECONDS = 2.0
"""Between two signs of life."""
_ANSWERS = 10.0  # seconds after which rank 0, which keeps the store, does not live
_FAILED = "failed"  # where a process that ends by an error leaves word

Stage = Literal["start", "step", "read", "log", "wait", "save", "evaluate", "end"]
"""What a process does for a step, in this order: `read` is of the batch after it, `wait` for all to have come so far.
Before and after training it is at `start` and `end`."""
STAGES: tuple[Stage, ...] = get_args(Stage)


class RankLostError(RuntimeError):
    """Other processes of the world have ended or stopped; the message names them."""


class RankFailedError(RuntimeError):
    """Another process of the world has ended by an error, which the message tells."""


@dataclass
class Place:
    """Where a process is in its run: written by what trains, now and then read by threads."""

    step: int = 0
    stage: Stage = "start"
    doing: str = ""
    """More of it, where it takes long."""


class Sign(NamedTuple):
    """A process's last sign of life: how many it has given, and where it was."""

    count: int
    step: int
    stage: Stage
    doing: str = ""

    @property
    def progress(self) -> tuple[int, int]:
        """How far it has come, to be compared."""
        return self.step, STAGES.index(self.stage)


class RollCall:
    """Every process leaves a sign of life with rank 0 now and then, from a thread, and where it is.

    Args:
        rank: of this process.
        place: of this process.
        gather: puts together what every process gives it, by rank. Every process must make a roll call at once.
    """

    def __init__(self, rank: int, place: Place, gather: Callable[[list[Any]], list[Any]]) -> None:
        self._rank, self._place = rank, place
        host = os.environ.get("MASTER_ADDR", "localhost")
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False) if rank == 0 else None
        (port, *_) = gather([0 if store is None else store.port])
        self._store = store or TCPStore(host, port, is_master=False, wait_for_workers=False)
        self.who: list[str] = gather([f"rank {rank} (host {socket.gethostname()}, pid {os.getpid()})"])
        self._beats = 0
        self._beat()
        gather([None])  # from here on every process has left its first sign
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)
        self._thread.start()

    def absent(self) -> str | None:
        """Who has ended or stopped or, where all live, who has not come as far as this process; None where nobody is.

        Takes seconds.

        Raises:
            RankFailedError: somebody has left word of the error that it ends by.
        """
        before = self.signs()
        if before is not None:
            if (word := self._word()) is not None:
                raise RankFailedError(word)
            time.sleep((4 if self._rank == 0 else 3) * SECONDS)  # rank 0, which keeps the store, has to end last
        after = None if before is None else self.signs()
        if before is None or after is None:
            return f"{self.who[0]} has ended or stopped, or cannot be reached"
        silent = [who for who, early, late in zip(self.who, before, after, strict=True) if early.count == late.count]
        if silent:
            have = "has" if len(silent) == 1 else "have"
            return f"{', '.join(silent)} {have} ended or stopped, or cannot be reached"
        own = Sign(0, self._place.step, self._place.stage)
        behind = [
            f"{who} at step {sign.step:,} ({sign.stage})"
            for who, sign in zip(self.who, after, strict=True)
            if sign.progress < own.progress
        ]
        return f"{', '.join(behind)} did not get to step {own.step:,} ({own.stage})" if behind else None

    def signs(self) -> list[Sign] | None:
        """Everybody's last sign, by rank; None where rank 0 does not answer within seconds."""
        texts = self._ask(lambda: self._store.multi_get([f"{rank}" for rank in range(len(self.who))]))
        if texts is None:
            return None
        parts = [text.decode().split(" ", 3) for text in texts]
        return [Sign(int(count), int(step), stage, doing) for count, step, stage, doing in parts]

    def leave_word(self, error: str) -> None:
        """Tell the others that this process ends by an error, and by which, as far as they can still be told."""
        self._ask(lambda: self._store.set(_FAILED, f"{self.who[self._rank]} has failed: {error}"))

    def close(self) -> None:
        """Leave no more signs."""
        self._ended.set()
        self._thread.join(SECONDS)

    def _word(self) -> str | None:
        return self._ask(lambda: self._store.get(_FAILED).decode() if self._store.check([_FAILED]) else None)

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The store's answer; None where rank 0, which keeps it, has ended or does not answer."""
        found: list[Any] = []

        def ask() -> None:
            with suppress(RuntimeError):  # of the store: rank 0 has ended
                found.append(question())

        # In a thread, which is left behind: a store whose process is stopped is waited for without end.
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(_ANSWERS)
        return found[0] if found else None

    def _beat(self) -> None:
        self._beats, place = self._beats + 1, self._place
        self._store.set(f"{self._rank}", f"{self._beats} {place.step} {place.stage} {place.doing}")

    def _keep_beating(self) -> None:
        while not self._ended.wait(SECONDS):
            try:
                self._beat()
            except RuntimeError:  # rank 0 has ended: the next collective operation will tell
                return
