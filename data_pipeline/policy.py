"""What is done to a view's pixels after cropping: one policy, or several in turn."""

from dataclasses import dataclass
from typing import Protocol

from data_pipeline.arrays import Pixels
from data_pipeline.randomness import Draws


class Policy(Protocol):
    """Changes the pixels of a view, three channels of uint8, by random numbers of its own.

    A frozen dataclass that pickles: workers are sent it. `str` names it in messages; `repr` says all that its pixels
    depend on, so that what was made from one policy is never taken for what another makes.
    """

    def apply(self, draws: Draws, pixels: Pixels) -> Pixels:
        """Pixels of the same shape; those given may be read-only."""
        ...


@dataclass(frozen=True)
class InTurn:
    """Several policies, each on the result of the one before.

    Raises:
        ValueError: none is given.
    """

    policies: tuple[Policy, ...]

    def __post_init__(self) -> None:
        if not self.policies:
            raise ValueError("InTurn: no policies; give at least one, or leave the policy out")

    def __str__(self) -> str:
        return ", then ".join(str(policy) for policy in self.policies)

    def apply(self, draws: Draws, pixels: Pixels) -> Pixels:
        """Pixels of the same shape; each policy's draws go on after those of the one before."""
        for policy in self.policies:
            pixels = policy.apply(draws, pixels)
        return pixels
