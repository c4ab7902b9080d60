"""Which processes of a world still live, so that those that wait in vain can say for whom."""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

_SECONDS = 2.0  # between two signs of life
_ANSWERS = 10.0  # seconds after which rank 0, which keeps the store, does not live


class RankLostError(RuntimeError):
    """Other processes of the world have ended or stopped; the message names them."""


class RollCall:
    """Every process leaves a sign of life with rank 0 now and then, from a thread, and the step that it is at.

    Args:
        rank: of this process.
        gather: puts together what every process gives it, by rank. Every process must make a roll call at once.
    """

    def __init__(self, rank: int, gather: Callable[[list[Any]], list[Any]]) -> None:
        self._rank = rank
        host = os.environ.get("MASTER_ADDR", "localhost")
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False) if rank == 0 else None
        (port, *_) = gather([0 if store is None else store.port])
        self._store = store or TCPStore(host, port, is_master=False, wait_for_workers=False)
        self._who: list[str] = gather([f"rank {rank} (host {socket.gethostname()}, pid {os.getpid()})"])
        self.step = 0
        self._beats = 0
        self._beat()
        gather([None])  # from here on every process has left its first sign
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)
        self._thread.start()

    def absent(self) -> str | None:
        """Who has ended or stopped or, where all live, who is steps behind; None where nobody is. Takes seconds."""
        before = self._signs()
        if before is not None:
            time.sleep((4 if self._rank == 0 else 3) * _SECONDS)  # rank 0, which keeps the store, has to end last
        after = None if before is None else self._signs()
        if before is None or after is None:
            return f"{self._who[0]} has ended or stopped"
        silent = [who for who, early, late in zip(self._who, before, after, strict=True) if early == late]
        if silent:
            return f"{', '.join(silent)} {'has' if len(silent) == 1 else 'have'} ended or stopped"
        steps = [int(sign.split()[1]) for sign in after]
        behind = [f"{who} at step {step:,}" for who, step in zip(self._who, steps, strict=True) if step < self.step]
        return f"{', '.join(behind)} did not get to step {self.step:,}" if behind else None

    def close(self) -> None:
        """Leave no more signs."""
        self._ended.set()
        self._thread.join(_SECONDS)

    def _signs(self) -> list[str] | None:
        """Everybody's last sign; None where rank 0 does not answer."""
        found: list[str] = []

        def ask() -> None:
            with suppress(RuntimeError):  # of the store: rank 0 has ended
                found.extend(self._store.get(f"{rank}").decode() for rank in range(len(self._who)))

        # In a thread, which is left behind: a store whose process is stopped is waited for without end.
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(_ANSWERS)
        return found if len(found) == len(self._who) else None

    def _beat(self) -> None:
        self._beats += 1
        self._store.set(f"{self._rank}", f"{self._beats} {self.step}")

    def _keep_beating(self) -> None:
        while not self._ended.wait(_SECONDS):
            try:
                self._beat()
            except RuntimeError:  # rank 0 has ended: the next collective operation will tell
                return
