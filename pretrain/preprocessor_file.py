"""How images are prepared for a model, read from the preprocessor_config.json of Transformers, in timm's words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.strict_json import read_json
from pretrain.pixels import Normalization

PREPROCESSOR = "preprocessor_config.json"
# Numbers of Pillow's filters.
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
# Of the processors that cut out the middle where the file does not say whether.
_CROPPING = ("Bit", "CLIP", "DeiT")
# Of those that make a lone number the shorter side; to the others it is that of a square.
_KEEPING_SHAPE = ("Bit", "CLIP")
_SQUASHED_SIDE = 256  # of DeiT's where the file does not say it


@dataclass(frozen=True)
class Preparation:
    """How timm prepares an image for a model, in its own words: interpolation, crop_pct and crop_mode."""

    interpolation: str
    crop_fraction: float
    crop_mode: str


def read_preprocessor(path: Path, size: tuple[int, int], channels: int) -> tuple[Normalization, Preparation]:
    """Read the file that an image processor of Transformers (ViT's, DeiT's, Bit, CLIP's) has written.

    `size` is the height and width in pixels, and `channels` the channels, of the images that the model takes.

    Raises:
        ValueError: not JSON, or a preparation that does not end with such images; the message begins with the path.
    """
    said = read_json(path)
    kind = str(said.get("image_processor_type", said.get("feature_extractor_type", "")))
    normalization = _normalization(said, channels, path)
    interpolation = _FILTERS.get(said.get("resample", 3 if kind.startswith(_CROPPING) else 2))
    if interpolation is None:
        raise ValueError(
            f"{path}: resample is {said.get('resample')!r}, expected the number of one of Pillow's filters, such as 3 "
            "(bicubic); write it again with the image processor's save_pretrained"
        )
    if not said.get("do_resize", True):
        raise ValueError(
            f"{path}: do_resize is false, expected images that are brought to the model's {size[0]} x {size[1]} "
            "pixels; set it, and size"
        )
    crops = said.get("do_center_crop", kind.startswith(_CROPPING))
    try:
        keeps_shape = kind.startswith(_KEEPING_SHAPE)
        own = (_SQUASHED_SIDE,) * 2 if kind.startswith("DeiT") else size
        shape, mode = _shape(said.get("size", own), keeps_shape=keeps_shape)
        cropped = _shape(said.get("crop_size", size), keeps_shape=False)[0] if crops else shape
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: size is {said.get('size')} and crop_size {said.get('crop_size')}, expected height and width, or "
            "shortest_edge with a crop_size; correct them"
        ) from error
    fraction = _fraction(size, shape, mode)
    if cropped != size and not (mode == "center" and min(shape) == min(size)):
        raise ValueError(
            f"{path}: images of {_by(cropped)} pixels come out of it, expected the model's {_by(size)}; correct size "
            "or crop_size"
        )
    if mode == "squash" and math.floor(size[1] / fraction) != shape[1]:
        raise ValueError(
            f"{path}: of images resized to {_by(shape)} other shares of the height and of the width are left out, "
            f"expected the same, of {_by(size)}; correct size or crop_size"
        )
    return normalization, Preparation(interpolation, fraction, mode)


def _normalization(said: Mapping[str, Any], channels: int, path: Path) -> Normalization:
    mean, std = [0.0] * channels, [1.0] * channels
    if said.get("do_normalize", True):
        mean, std = said.get("image_mean", [0.5] * channels), said.get("image_std", [0.5] * channels)
    is_right = all(isinstance(each, list) and len(each) == channels for each in (mean, std))
    if not is_right or not all(isinstance(value, int | float) for value in (*mean, *std)) or min(std) <= 0:
        raise ValueError(
            f"{path}: image_mean {mean} and image_std {std}, expected {channels} numbers each, for the model's "
            f"{channels} channels, and deviations above 0; correct them"
        )
    # Of pixels from 0 to 255, of which ours are shares.
    white = 255 * said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 255.0
    white = 1.0 if math.isclose(white, 1) else white
    return Normalization(tuple(value / white for value in mean), tuple(value / white for value in std))


def _shape(size: Any, *, keeps_shape: bool) -> tuple[tuple[int, int], str]:
    """Height and width that are resized to, and timm's word for how: `center` keeps the picture's shape."""
    if isinstance(size, Mapping):
        if "shortest_edge" in size:
            side = int(size["shortest_edge"])
            return (side, side), "center"
        return (int(size["height"]), int(size["width"])), "squash"
    if isinstance(size, int):
        return (size, size), "center" if keeps_shape else "squash"
    height, width = size
    return (int(height), int(width)), "squash"


def _fraction(size: tuple[int, int], shape: tuple[int, int], mode: str) -> float:
    """timm's crop_pct, of which it makes the size that is resized to: the image's over it, rounded down."""
    wanted, resized = (min(size), min(shape)) if mode == "center" else (size[0], shape[0])
    fraction = wanted / resized
    return fraction if math.floor(wanted / fraction) == resized else math.nextafter(fraction, 0)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
