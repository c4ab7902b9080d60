"""The view that a published model of timm was evaluated with, to the bit.

A crop of ours is cut before it is resized, by torch; timm resizes the whole image, by Pillow, and crops what comes out.
Both show about the same. A figure that is compared with a published one needs the very same pixels.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from data_pipeline.arrays import Pixels

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
_CROP_MODES = ("center", "squash", "border")


@dataclass(frozen=True)
class StockView:
    """What `timm.data.create_transform(size, is_training=False, ...)` makes of an image before it is normalised.

    The image is decoded in full by Pillow and resized by timm's own transform. Two things differ, and only where images
    are not plain: those with an EXIF orientation are turned upright first, as everywhere here (timm shows them as they
    are stored), and grey values of 16 bits are scaled to 8 (Pillow clips them: almost white pictures).

    Args:
        size: height and width in pixels.
        interpolation: timm's name of Pillow's filter.
        crop_fraction: timm's `crop_pct`: the size over that which the image is resized to.
        crop_mode: `center` resizes the shorter side, `squash` both, `border` the longer one, and pads.
        mean: of the model's normalisation, the colour that `border` pads with; nothing else depends on it.

    Raises:
        ValueError: any other value.
    """

    size: tuple[int, int]
    interpolation: str = "bicubic"
    crop_fraction: float = 0.875
    crop_mode: str = "center"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ValueError(f"StockView: size is {self.size}, expected a height and a width of at least 1 pixel")
        for name, known in (("interpolation", _INTERPOLATIONS), ("crop_mode", _CROP_MODES)):
            if getattr(self, name) not in known:
                raise ValueError(f"StockView: {name} is {getattr(self, name)!r}, expected one of {', '.join(known)}")
        if self.crop_fraction <= 0:
            raise ValueError(f"StockView: crop_fraction is {self.crop_fraction}, expected more than 0, such as 0.875")
        if len(self.mean) != 3:
            raise ValueError(f"StockView: mean has {len(self.mean)} values, expected 3: it is for images in RGB")

    def prepare(self, pixels: Pixels) -> Pixels:
        """(height, width, 3) in uint8, of an upright image to this view's size."""
        tensor = _transform(self)(Image.fromarray(np.ascontiguousarray(pixels)))
        return tensor.permute(1, 2, 0).numpy()  # (3, h, w) -> (h, w, 3)


@cache
def _transform(view: StockView) -> Any:
    from timm.data.transforms_factory import create_transform  # importing timm takes seconds

    return create_transform(
        (3, *view.size),
        is_training=False,
        interpolation=view.interpolation,
        crop_pct=view.crop_fraction,
        crop_mode=view.crop_mode,
        mean=view.mean,
        normalize=False,
    )
