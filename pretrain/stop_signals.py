"""TERM and Ctrl-C ask a run to save and leave."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Terminated(SystemExit):
    """TERM came where there is nothing to save: before the first step, or after the last."""


@contextmanager
def ending_on_term() -> Iterator[None]:
    """In here TERM raises Terminated, with exit code 0, unless an error is on its way; the handler before is put back.

    Launchers send TERM to those that a lost process leaves behind, who then have to say who is lost.
    """

    def end(*_: object) -> None:
        if sys.exception() is None:
            raise Terminated(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def terminations() -> Iterator[Callable[[], bool]]:
    """Whether TERM or Ctrl-C has come since; a second Ctrl-C interrupts at once. Earlier handlers are put back."""
    came = False

    def note(number: int, _: object) -> None:
        nonlocal came
        came = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
