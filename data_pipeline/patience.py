"""How long a store is waited for."""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

LONGEST_PAUSE = 20.0
VARIABLE = "SHERD_STORE_SECONDS"

_TRIES, _SECONDS = 8, 180.0


class NotWantedError(Exception):
    """Whoever asked for bytes does not want them any more; see `Patience.interrupt`."""


def _random() -> float:
    return random.random()  # spreads the tries of many processes; what they read does not depend on it


def _go_on() -> None:
    """Never gives up early."""


@dataclass(frozen=True)
class Patience:
    """How long a store is waited for: by default one that is away for a minute is survived.

    `tries`: in a row without a byte. `seconds`: in all, and one more for each 100 kB asked for. Where they are None the
    environment variable SHERD_STORE_SECONDS tells the seconds, in as many tries as fit; without it they are 8 and 180.
    `connect_seconds`, `silent_seconds`: until a connection stands, and without a byte. `sleep`, `clock`, `jitter` (a
    number in [0, 1)): for tests. `interrupt` is called about twice a second while bytes are waited for, and after each
    pause: it may raise `NotWantedError`, which passes through.
    """

    tries: int | None = None
    seconds: float | None = None
    connect_seconds: float = 10.0
    silent_seconds: float = 30.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = _random
    interrupt: Callable[[], None] = _go_on

    @property
    def most_tries(self) -> float:
        """After so many in a row it is given up."""
        if self.tries is not None:
            return self.tries
        return float("inf") if VARIABLE in os.environ else _TRIES

    @property
    def most_seconds(self) -> float:
        """After so many it is given up.

        Raises:
            ValueError: the environment variable is no number of seconds.
        """
        if self.seconds is not None:
            return self.seconds
        text = os.environ.get(VARIABLE, str(_SECONDS))
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{VARIABLE} is {text!r}, expected seconds that a store is waited for: 600") from None

    def pause(self, failures: int, wished: float) -> float:
        """Seconds before the next try after so many failures in a row; `wished` are those the store asked for."""
        own = min(LONGEST_PAUSE, 0.25 * 4.0 ** (failures - 1)) * (0.75 + 0.25 * self.jitter())
        return max(own, min(wished, 3 * LONGEST_PAUSE))


PATIENCE = Patience()
