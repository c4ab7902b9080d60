"""scikit-learn's handwritten digits: 1,797 greyscale images of 8 x 8 pixels that need no download."""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from data_pipeline.manifest import NO_LABEL
from data_pipeline.sources import Contents, Entry, Listing

# The images are sorted by writer: the last fifth was written by people of whom the rest holds nothing, so that testing
# on it tells how a model does on hands it has never seen. A random split would look better than that.
_TRAIN = 1437
_CLASSES = tuple("0123456789")


@dataclass(frozen=True)
class DigitsSource:
    """Splits `train` (1,437 images) and `test` (360), as lossless PNG."""

    labelled: bool

    def list_images(self) -> Contents:
        """Never fails: scikit-learn brings the images along."""
        pixels, labels = _load()
        if not self.labelled:
            labels = np.full_like(labels, NO_LABEL)
        splits = {}
        for split, numbers in (("train", range(_TRAIN)), ("test", range(_TRAIN, len(pixels)))):
            names = [f"digits/{number:04d}" for number in numbers]
            sizes = np.full(len(names), pixels[0].size)
            splits[split] = Listing(names, labels[numbers.start : numbers.stop], sizes)
        classes = _CLASSES if self.labelled else None
        return Contents(splits, classes, "scikit-learn's digits", (), {"scikit-learn": version("scikit-learn")})

    def read(self, split: str, entry: Entry, limit: int | None = None) -> bytes:
        """One digit as PNG."""
        from data_pipeline.decode import to_png

        pixels, _ = _load()
        grey = pixels[entry.number + (0 if split == "train" else _TRAIN)]
        return to_png(np.repeat(grey[..., None], 3, axis=-1))[:limit]


@cache
def _load() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    values, labels = (np.asarray(array, np.int64) for array in load_digits(return_X_y=True))
    scaled = (values * 255 + 8) // 16  # 0..16 to 0..255, rounded in integers
    return scaled.astype(np.uint8).reshape(-1, 8, 8), labels
