"""How a student learns from a teacher's logits, as a frozen dataclass that imports nothing heavy."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DistillationConfig:
    """What of a teacher's judgement is learnt, and how much it counts. Defaults: Touvron et al. 2021
    (arXiv:2012.12877), equation 3. (Their soft distillation had temperature 3 and alpha .1, section 6.)

    Raises:
        ValueError: a number lies outside its range, or does nothing with this kind.
    """

    kind: Literal["hard", "soft", "none"] = "hard"
    """hard: the class that the teacher finds likeliest, as a label; soft: how likely it finds each; none: no
    teacher."""
    alpha: float = 0.5
    """Share of the teacher's part in the loss; the labels have the rest. 1: of the teacher's part alone."""
    temperature: float = 1.0
    """Of soft: both models' logits are divided by it (tau in the paper), so that unlikely classes tell more above 1."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            fix = "; to learn from labels alone pass --distillation.kind none" if self.alpha == 0 else ""
            raise ValueError(f"--distillation.alpha expects a share above 0, at most 1, got {self.alpha:g}{fix}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"--distillation.temperature expects a positive number, got {self.temperature:g}")
        if self.kind != "soft" and self.temperature != type(self).temperature:
            raise ValueError(
                f"--distillation.temperature {self.temperature:g} expects --distillation.kind soft, got {self.kind}, "
                "which has none; drop it, or pass --distillation.kind soft"
            )
        if self.kind == "none" and self.alpha != type(self).alpha:
            raise ValueError(
                f"--distillation.alpha {self.alpha:g} expects --distillation.kind hard or soft, got none, which has no "
                "teacher; drop it, or choose one of them"
            )

    @property
    def is_on(self) -> bool:
        """Whether there is a teacher at all."""
        return self.kind != "none"
