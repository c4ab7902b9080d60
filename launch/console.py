"""What a run says while it works: on a terminal one live line, elsewhere (a log file) a plain line now and then."""

import collections
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Console:
    """Prints on rank 0 only, to `stream` (stdout by default), flushed."""

    def __init__(
        self, rank: int = 0, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rank = rank
        self.stream = sys.stdout if stream is None else stream
        self.clock = clock
        self.live: RichProgress | None = None

    @property
    def is_terminal(self) -> bool:
        return self.stream.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, text: str) -> None:
        """One message, above the progress line where there is one."""
        if self.rank != 0:
            return
        if self.live is not None:
            self.live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)

    def progress(
        self,
        total: int | None,
        unit: str = "images",
        label: str = "step",
        start: int = 0,
        every_seconds: float = 30.0,
    ) -> "Progress":
        """A progress line, from `start` (where a resumed run begins) to `total`, None where the end is not known.

        `unit` is what the rate counts; `every_seconds` spaces the plain lines that are printed off a terminal.
        """
        return Progress(self, total, unit=unit, label=label, start=start, every_seconds=every_seconds)


class Progress:
    """`step 120/300  loss 0.4321  data wait 0.3 %  1,234 images/s  0:01:02 left`; use it in a `with`."""

    def __init__(
        self, console: Console, total: int | None, *, unit: str, label: str, start: int, every_seconds: float
    ) -> None:
        self.console = console
        self.total = total
        self.position = start
        self._unit = unit
        self._label = label
        self._start = start
        self._every_seconds = every_seconds
        self._items = 0
        self._fields: dict[str, str] = {}
        self._began = self._shown = 0.0
        self._task: TaskID | None = None
        self._opened_bar = False
        self._samples: collections.deque[tuple[float, int]] = collections.deque()

    def __enter__(self) -> "Progress":
        self._began = self._shown = self.console.clock()
        self._samples.append((self._began, 0))
        if self.console.rank == 0 and self.console.is_terminal:
            if self.console.live is None:
                self.console.live = _live_bar(self.console.stream)
                self.console.live.start()
                self._opened_bar = True
            self._task = self.console.live.add_task(self._label, total=self.total, completed=self.position, line="")
        return self

    def __exit__(self, *_: object) -> None:
        closing = self.line(f"in {format_duration(self.console.clock() - self._began)}")
        live = self.console.live
        if self.console.rank != 0:
            return
        if live is None:
            self.console.say(closing)
        elif self._opened_bar:
            self._show(closing)
            live.stop()
            self.console.live = None
        else:
            # Inside another one (an evaluation during training): leaves a plain line above the bar of that one.
            assert self._task is not None
            live.remove_task(self._task)
            self.console.say(closing)

    def advance(self, steps: int = 1, items: int | None = None, **fields: str | float) -> None:
        """`steps` more are done, which were `items` of the unit (as many as steps by default).

        Each of `fields` is shown as `name value` until given anew; underscores are shown as spaces, floats with four
        digits.
        """
        self.position += steps
        if self.console.rank != 0:
            return
        self._items += steps if items is None else items
        for name, value in fields.items():
            self._fields[name] = f"{value:.4g}" if isinstance(value, float) else str(value)
        now = self.console.clock()
        self._sample(now)
        # Composing a line costs more than a fast step does: never more than a reader can follow.
        if now - self._shown < (self._every_seconds if self.console.live is None else 0.1):
            return
        self._shown = now
        self._show(self.line())

    def line(self, closing: str | None = None) -> str:
        """What is shown now; `closing` takes the place of the time left."""
        total = "" if self.total is None else f"/{self.total:,}"
        parts = [f"{self._label} {self.position:,}{total}"]
        parts += [f"{name.replace('_', ' ')} {value}" for name, value in self._fields.items()]
        then, items = self._samples[0]
        elapsed = self.console.clock() - then
        if elapsed > 0 and self._items > 0:
            parts.append(f"{format_rate((self._items - items) / elapsed)} {self._unit}/s")
        left = self.seconds_left()
        if closing is not None:
            parts.append(closing)
        elif left is not None:
            parts.append(f"{format_duration(left)} left")
        return "  ".join(parts)

    def seconds_left(self) -> float | None:
        """At the mean pace of this session: what came before a resume tells nothing of this machine."""
        done = self.position - self._start
        if self.total is None or done <= 0:
            return None
        return max(0, self.total - self.position) * (self.console.clock() - self._began) / done

    def _sample(self, now: float) -> None:
        # The rate is that of the last minute: a loader that has become slow shows, and a slow first step does not stay.
        if now - self._samples[-1][0] >= 1.0:
            self._samples.append((now, self._items))
            while len(self._samples) > 2 and now - self._samples[0][0] > 60.0:
                self._samples.popleft()

    def _show(self, line: str) -> None:
        live = self.console.live
        if live is None or self._task is None:
            self.console.say(line)
        else:
            live.update(self._task, completed=self.position, line=line)


def _live_bar(stream: TextIO) -> "RichProgress":
    import rich.console
    import rich.progress
    import rich.table

    return rich.progress.Progress(
        rich.progress.BarColumn(bar_width=20),
        # Markup would take "[0.1, 0.2]" in a field for a style.
        rich.progress.TextColumn(
            "{task.fields[line]}", markup=False, table_column=rich.table.Column(no_wrap=True, overflow="ellipsis")
        ),
        console=rich.console.Console(file=stream, highlight=False),
    )


def format_duration(seconds: float) -> str:
    """`0:01:02`, and from a day on `2 d 3:04:05`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{f'{days} d ' if days else ''}{hour}:{minute:02}:{second:02}"


def format_rate(per_second: float) -> str:
    """Three digits at least: `1,234`, `12.3`, `0.123`."""
    if per_second >= 100:
        return f"{per_second:,.0f}"
    return f"{per_second:.1f}" if per_second >= 10 else f"{per_second:.3g}"
