"""What is kept of a teacher's features: all of them, in half precision.

Losses see features through cosines. Rounding changes a number by 2^-11 of it at most, and so the cosine between
features and whatever else by less than 2^-11, but for features of which most numbers are below 6e-5.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from pretrain.feature_teacher import TeacherFeatures
from pretrain.row_format import Columns

_HALF = np.dtype("<f2")


@dataclass(frozen=True)
class FeatureFormat:
    """The columns of a row: `image` (c,) and `places` (n, d), float16, for `widths` (c, d) and n `places`."""

    widths: tuple[int, int]
    places: int
    noun: ClassVar[str] = "features"
    names: ClassVar[tuple[str, ...]] = ("image", "places")
    saving: ClassVar[str] = ", keep fewer views of each (--cache-teacher.views)"
    refusal: ClassVar[str] = (
        f"NaN, infinite, or beyond the {int(np.finfo(_HALF).max):,} that half precision ends at, expected numbers "
        "within; look at its weights, compute in --precision fp32, or ask it anew each time: --cache-teacher.views 0"
    )

    @property
    def columns(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Type and shape of what each column holds of one row."""
        image, place = self.widths
        return {"image": (_HALF, (image,)), "places": (_HALF, (self.places, place))}

    def fits(self, judged: TeacherFeatures) -> Bool[Tensor, " b"]:
        """Which rows half precision holds."""
        image, places = (features.half().isfinite().flatten(1).all(dim=1) for features in judged)
        return image & places

    def pack(self, judged: TeacherFeatures) -> dict[str, NDArray[Any]]:
        """The columns of features, rounded."""
        found = {name: features.half().cpu().numpy() for name, features in zip(self.names, judged, strict=True)}
        assert all(found[name].shape[1:] == shape for name, (_, shape) in self.columns.items())
        return {name: column.astype(_HALF, copy=False) for name, column in found.items()}

    def unpack(self, columns: Columns) -> TeacherFeatures:
        """The features in half precision, of which half as many bytes go to a device."""
        image, places = (torch.from_numpy(columns[name].astype(np.float16, copy=False)) for name in self.names)
        return TeacherFeatures(image, places)
