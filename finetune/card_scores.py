"""Figures of a model as the Hub's model-index takes them, with how sure they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

_LEVEL = 0.95

Row = tuple[str, str]
Figure = Literal["accuracy", "mean_average_precision"]


@dataclass(frozen=True)
class Score:
    """A figure of the model-index, a share; `details` say how sure it is: interval, images, seed."""

    name: str
    value: float
    details: dict[str, Any]
    figure: Figure = "accuracy"

    @property
    def with_interval(self) -> str:
        """The share and its interval, for people."""
        low, high = self.details["confidence_interval"]
        return f"{self.value:.2%} ({100 * self.details['level']:g} % between {low:.2%} and {high:.2%})"


@dataclass(frozen=True)
class Measured:
    """What one folder holds: a sentence of Markdown on how it was measured, rows for people, and scores for the Hub."""

    text: str
    rows: tuple[Row, ...]
    data: str
    split: str | None
    scores: tuple[Score, ...]


def wilson_interval(share: float, images: int, level: float = _LEVEL) -> tuple[float, float]:
    """Both ends of Wilson's score interval (1927) of a share of so many images, one at least."""
    assert images > 0
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle, scale = share + z * z / (2 * images), 1 + z * z / images
    half = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def share_score(name: str, share: float, images: int, seed: int) -> Score:
    """A share of images that each count once, with Wilson's interval."""
    details = {"confidence_interval": rounded(wilson_interval(share, images)), "level": _LEVEL, "method": "Wilson"}
    return Score(name, round(share, 6), {**details, "images": images, "seed": seed})


def rounded(ends: Sequence[float]) -> list[float]:
    """Ends of an interval of shares, to a hundredth of a percent."""
    return [round(end, 4) for end in ends]
