"""How long the parts of a run that are told apart have taken, such as asking a teacher."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class TeacherClock:
    """Counts the seconds of what runs in `counting`: of this process or, on a GPU, of the stream that is in use.

    There the moments are marked on the GPU's own timeline, and read once it has passed them. Work that runs beside
    other work, as a teacher's beside the step before, counts in full.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_on_gpu = device.type == "cuda"
        self._spans: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._seconds = 0.0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """What happens in here counts, also where it fails."""
        if self._is_on_gpu:
            begun = _mark()
            try:
                yield
            finally:
                self._spans.append((begun, _mark()))
                self.seconds()  # or marks would pile up where nobody asks
        else:
            begin = time.perf_counter()
            try:
                yield
            finally:
                self._seconds += time.perf_counter() - begin

    def seconds(self) -> float:
        """So far; of what the GPU has not ended nothing, for nobody waits here."""
        while self._spans and self._spans[0][1].query():
            begun, ended = self._spans.popleft()
            self._seconds += begun.elapsed_time(ended) / 1000
        return self._seconds


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
