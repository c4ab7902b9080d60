"""Whether a classifier is right as often as it says: its confidences in bins."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""Of equal width, as Guo et al. 2017 (arXiv:1706.04599) use."""
EDGES = np.arange(BINS + 1) / BINS
"""Bin m holds confidences above EDGES[m], up to and with EDGES[m + 1]."""


@dataclass(frozen=True)
class Calibration:
    """Of each bin how many images it holds, the sum of their confidences, and how many of them are right."""

    images: NDArray[np.int64]
    confidence: NDArray[np.float64]
    right: NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error in [0, 1]: by how much confidence and accuracy of a bin differ, in the mean over
        images (Guo et al. 2017, arXiv:1706.04599, equation 3).
        """
        return float(np.abs(self.right - self.confidence).sum() / self.images.sum())

    def to_json(self) -> list[dict[str, Any]]:
        """The bins of a reliability diagram; what is unknown of an empty one is null."""
        rows = zip(
            EDGES[:-1].tolist(), EDGES[1:].tolist(), self.images.tolist(), self.confidence, self.right, strict=True
        )
        return [
            {
                "above": low,
                "to": high,
                "images": images,
                "confidence": float(confidence / images) if images else None,
                "accuracy": float(right / images) if images else None,
            }
            for low, high, images, confidence, right in rows
        ]


def bins_of(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each confidence in [0, 1]."""
    return np.searchsorted(EDGES[1:-1], confidence, side="left")


def calibrate(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> Calibration:
    """The bins of n predictions."""
    bins = bins_of(confidence)
    sums = np.bincount(bins, weights=confidence, minlength=BINS).astype(np.float64)
    return Calibration(np.bincount(bins, minlength=BINS), sums, np.bincount(bins[right], minlength=BINS))
