"""scikit-learn's handwritten digits: 1,797 greyscale images of 8 x 8 pixels that need no download."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.sources import Entry, Found, Outline

# The images are sorted by writer: the last fifth was written by people of whom the rest holds nothing, so that testing
# on it tells how a model does on hands it has never seen. A random split would look better than that.
_TRAIN = 1437
_CLASSES = tuple("0123456789")


@dataclass(frozen=True)
class DigitsSource:
    """Splits `train` (1,437 images) and `test` (360), as lossless PNG. Never fails: scikit-learn brings them along."""

    def outline(self) -> Outline:
        """Ten classes."""
        return Outline(_CLASSES, "scikit-learn's digits", versions=(("scikit-learn", version("scikit-learn")),))

    def images(self) -> Iterator[Found]:
        """In scikit-learn's order; `place` is the number in it."""
        pixels, labels = _load()
        for number, label in enumerate(labels.tolist()):
            split = "train" if number < _TRAIN else "test"
            yield Found(split, f"digits/{number:04d}", label, pixels[number].size, number)

    def read(self, split: str, entry: Entry, limit: int | None = None) -> bytes:  # the place tells the split
        """One digit as PNG."""
        from data_pipeline.decode import to_png

        grey = _load()[0][entry.place]
        return to_png(np.repeat(grey[..., None], 3, axis=-1))[:limit]

    def annotations(self, split: str, entry: Entry) -> dict[str, Any]:
        """None."""
        return {}


@cache
def _load() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    values, labels = (np.asarray(array, np.int64) for array in load_digits(return_X_y=True))
    scaled = (values * 255 + 8) // 16  # 0..16 to 0..255, rounded in integers
    return scaled.astype(np.uint8).reshape(-1, 8, 8), labels
