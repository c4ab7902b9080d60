"""Large images made smaller, for the one option that gives up the images' own bytes for speed and room.

Baseline JPEG with chroma at half the resolution (4:2:0), standard Huffman tables and no metadata, by libjpeg-turbo:
what photographs mostly are already, and what decodes fastest, at a fraction of the scale too. The same pixels, quality
and library versions give the same bytes.
"""

import numpy as np
import simplejpeg
from PIL import Image

from data_pipeline.arrays import Pixels

_LONGEST_SIDE = 65_500  # pixels: libjpeg's limit


def shrink(pixels: Pixels, short_side: int, quality: int) -> tuple[bytes, tuple[int, int]] | None:
    """A JPEG whose shorter side is `short_side` pixels, and its width and height.

    None where the shorter side is no longer than that, or the other would still be too long for a JPEG.

    The longer side follows in proportion, rounded. Resized by Pillow's antialiased bicubic filter in one step, as the
    views of evaluation are.

    Args:
        pixels: upright RGB (height, width, 3) in uint8.
        short_side: in pixels.
        quality: of the JPEG, 1 to 100.
    """
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    height, width = pixels.shape[:2]
    short = min(width, height)
    if short <= short_side:
        return None
    size = (round(width * short_side / short), round(height * short_side / short))
    if max(size) > _LONGEST_SIDE:
        return None
    image = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BICUBIC)
    encoded = simplejpeg.encode_jpeg(np.asarray(image), quality, "RGB", "420", fastdct=False)
    return encoded, size
