"""Which part of a model is fine-tuned, as `--trainable` says it; imports nothing heavy."""

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Trainable:
    """all; head: the last layer alone; last: it and `layers` before it; norms and bias: it, and all such parameters."""

    kind: Literal["all", "head", "last", "norms", "bias"]
    layers: int = 0


_WORDS = {
    "all": Trainable("all"),
    "head": Trainable("head"),
    "norms": Trainable("norms"),
    "bias": Trainable("bias"),
}


def parse_trainable(text: str) -> Trainable:
    """What `--trainable` asks for: all, head, last:N, norms or bias. Raises ValueError for anything else."""
    if text in _WORDS:
        return _WORDS[text]
    number = re.fullmatch(r"last:(\d+)", text)
    if number is None:
        raise ValueError(
            f"--trainable expects all, head, last:N (the head and the N layers before it), norms or bias, got {text}"
        )
    if int(number[1]) == 0:
        raise ValueError("--trainable last:0 trains no layer before the head, expected one or more; pass head")
    return Trainable("last", int(number[1]))
