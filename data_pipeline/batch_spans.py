"""Which run positions the global batches of a run cover: all of them in turn, but for those that are left out."""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class BatchSpans:
    """Batches of `size` positions up to `end`, None for never. `skipped`: spans left out, each of whole batches."""

    size: int
    end: int | None
    skipped: list[tuple[int, int]] = field(default_factory=list)

    def skip(self, start: int, stop: int, position: int) -> None:
        """Leave out the positions from `start` to `stop`, of which none has been handed out: `position` is the next.

        Raises:
            ValueError: not whole batches, or some handed out already.
        """
        if (stop - start) % self.size or start < position:
            raise ValueError(f"skip {start} to {stop}: expected whole batches of {self.size} not yet handed out")
        self.skipped.append((start, stop))

    def after(self, position: int) -> Iterator[tuple[int, int]]:
        """Start and end of every batch from a position on."""
        start = position
        while self.end is None or start < self.end:
            stop = start + self.size
            over = [last for first, last in self.skipped if first < stop and start < last]
            if over:
                start = max(over)
                continue
            yield start, stop
            start = stop

    def left(self, position: int) -> int:
        """How many `after` gives. Raises ValueError where it never ends."""
        if self.end is None:
            raise ValueError("a stream without an end: give it epochs")
        count, start = 0, position
        for first, last in sorted(self.skipped):
            if last <= start:
                continue
            before = min(max(0, first - start) // self.size, self._until(start, self.end))
            count, start = count + before, start + before * self.size
            if start + self.size > first:  # the next batch would reach into what is left out
                start = max(start, last)
        return count + self._until(start, self.end)

    def _until(self, start: int, end: int) -> int:
        """Batches from a position to the end, the last of which may reach beyond it."""
        return max(0, -(-(end - start) // self.size))
