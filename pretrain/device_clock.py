"""How long a GPU had nothing to do between two steps, and whether it waited for a copy."""

import torch


class DeviceClock:
    """Marks moments on the GPU's own timeline, and reads them when it has come to a stop anyway.

    Without a GPU there are no such moments: `idle` and `transfer` stay 0 and `is_known` is False.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_known = device.type == "cuda"
        self._ended: torch.cuda.Event | None = None
        self._asked: torch.cuda.Event | None = None
        self._gaps: list[tuple[torch.cuda.Event, torch.cuda.Event, torch.cuda.Event]] = []
        self.idle = 0.0
        """Seconds between the end of a step's work and the next work that this process gave to the GPU."""
        self.transfer = 0.0
        """Seconds that the GPU waited for the copy of a batch."""

    def asks(self) -> None:
        """Before the device is told to wait for the copy of a batch."""
        self._asked = self._mark()

    def begins(self) -> None:
        """After it, before the step's own work."""
        begun = self._mark()
        if self._ended is not None and self._asked is not None and begun is not None:
            self._gaps.append((self._ended, self._asked, begun))

    def ends(self) -> None:
        """After the step's own work has been given to the GPU."""
        self._ended = self._mark()

    def restart(self) -> None:
        """What comes next is no gap between two steps."""
        self._ended = None
        self._gaps.clear()

    def read(self) -> None:
        """Add up what was marked; to be called when the GPU has done all of it."""
        for ended, asked, begun in self._gaps:
            self.idle += ended.elapsed_time(asked) / 1000
            self.transfer += asked.elapsed_time(begun) / 1000
        self._gaps.clear()

    def _mark(self) -> torch.cuda.Event | None:
        if not self.is_known:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
