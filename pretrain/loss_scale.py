"""Dynamic loss scaling for fp16 (Micikevicius et al. 2018, arXiv:1710.03740), without waiting for a GPU."""

from typing import Any

import torch
from torch import Tensor

_FIRST = 2.0**16
_LEAST = 1.0
_LONG = 2000  # steps without overflow, after which the scale is doubled


class LossScale:
    """The number that losses are multiplied by, so that small gradients do not vanish in half precision.

    Halved when a gradient overflows, at least 1, and doubled after 2,000 steps in which none did; powers of two
    throughout, so that scaling rounds nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self.value = torch.tensor(_FIRST, device=device)
        self._good = torch.tensor(0, device=device)

    def update(self, overflowed: Tensor) -> None:
        """Note whether a step's gradients were finite: a boolean on the device."""
        self._good = torch.where(overflowed, 0, self._good + 1)
        grown = torch.where(self._good >= _LONG, self.value * 2, self.value)
        self._good = torch.where(self._good >= _LONG, 0, self._good)
        self.value = torch.where(overflowed, (self.value / 2).clamp(min=_LEAST), grown)

    def state(self) -> dict[str, Any]:
        """For a checkpoint; waits for the device."""
        return {"value": self.value.item(), "good_steps": int(self._good.item())}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken."""
        self.value.fill_(state["value"])
        self._good.fill_(state["good_steps"])


def is_least(scale: float | None) -> bool:
    """Whether no smaller scale is left, so that an infinite gradient is more than an overflow."""
    return scale is None or scale <= _LEAST
