"""The ways from an image's bytes in memory to the pixels of a crop: what one core does, without loader or disk.

All are given the same boxes, and the drawing of boxes is counted for none. Each is a function of the view's size, which
returns what turns an image and a crop into pixels.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
import torch
from loader_rivals import MEAN, STD
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode, functional
from torchvision.transforms.v2 import functional as tensors

from data_pipeline.augment import Crop, RandomResizedCrop
from data_pipeline.manifest import read_manifest
from data_pipeline.randomness import Draws
from data_pipeline.storage import ShardReader
from data_pipeline.view_pixels import ViewDecoder

_BICUBIC = InterpolationMode.BICUBIC
_MOST = 400  # images


class Encoded(NamedTuple):
    """A JPEG, its bytes twice: a tensor is what torchvision takes. Width and height in pixels, as stored."""

    data: bytes
    tensor: Tensor
    width: int
    height: int


Way = Callable[[Encoded, Crop], Any]


def read_images(folder: Path) -> list[Encoded]:
    """The different images of a dataset folder, a few hundred at most; without those printed in inks (CMYK)."""
    manifest = read_manifest(folder)
    split = manifest.split("train")
    reader = ShardReader(manifest, split)
    found: dict[int, Encoded] = {}
    for shard in range(len(split.shards)):
        rows = np.arange(split.shards[shard].samples)
        for view, entry in zip(*reader.images(shard, rows), strict=True):
            data = bytes(view)
            height, width, colours = simplejpeg.decode_jpeg_header(data)[:3]
            if colours in ("YCbCr", "Gray"):
                tensor = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
                found[int(entry["image_hash"])] = Encoded(data, tensor, int(width), int(height))
            if len(found) == _MOST:
                return list(found.values())
    return list(found.values())


def draw_crops(images: list[Encoded], size: int, round_: int) -> list[Crop]:
    """The boxes of a round through the images: the same for every way."""
    view = RandomResizedCrop((size, size))
    return [view.draw(Draws(0, round_, number), image.width, image.height) for number, image in enumerate(images)]


def pillow(size: int) -> Way:
    """As facebookresearch/mae: Pillow, torchvision's v1 functions, normalised float32."""
    show = _pillow_image(size)

    def decode(image: Encoded, crop: Crop) -> Tensor:
        return functional.normalize(functional.to_tensor(show(image, crop)), list(MEAN), list(STD))

    return decode


def pillow_uint8(size: int) -> Way:
    """The same without conversion to float32 and normalisation."""
    show = _pillow_image(size)
    return lambda image, crop: functional.pil_to_tensor(show(image, crop))


def torchvision_v2(size: int) -> Way:
    """torchvision's decoder and transforms.v2 on uint8."""

    def decode(image: Encoded, crop: Crop) -> Tensor:
        pixels = decode_jpeg(image.tensor, mode=ImageReadMode.RGB)
        assert isinstance(pixels, Tensor)  # not of a list
        box = (crop.top, crop.left, crop.height, crop.width)
        pixels = tensors.resized_crop(pixels, *box, [size, size], interpolation=_BICUBIC, antialias=True)
        return tensors.horizontal_flip(pixels) if crop.mirrored else pixels

    return decode


def sherd(size: int) -> Way:
    """Ours, written where the batch is put together."""
    decoder = ViewDecoder()
    row = np.empty((size, size, 3), np.uint8)

    def decode(image: Encoded, crop: Crop) -> Tensor:
        with torch.inference_mode():
            row[...] = decoder.views(image.data, (image.width, image.height), 1, [(crop, (size, size))])[0]
        return torch.from_numpy(row).permute(2, 0, 1)

    return decode


def full_decode(size: int) -> Way:
    """The limit of whoever decodes whole images: libjpeg-turbo alone, no crop, no resize."""
    return lambda image, crop: simplejpeg.decode_jpeg(image.data, "RGB")


def difference(way: Way, images: list[Encoded], crops: list[Crop], size: int) -> float | None:
    """Mean difference from Pillow's views, in grey levels; None for ways that give no views in uint8."""
    reference, total = pillow_uint8(size), 0.0
    for image, crop in zip(images, crops, strict=True):
        found = way(image, crop)
        if not isinstance(found, Tensor) or found.dtype != torch.uint8:
            return None
        total += (found.int() - reference(image, crop).int()).abs().float().mean().item()
    return total / len(images)


def _pillow_image(size: int) -> Callable[[Encoded, Crop], Any]:
    def show(image: Encoded, crop: Crop) -> Any:  # an image of Pillow's, which torchvision's types do not know
        pixels: Any = Image.open(io.BytesIO(image.data)).convert("RGB")
        pixels = functional.resized_crop(
            pixels, crop.top, crop.left, crop.height, crop.width, [size, size], interpolation=_BICUBIC
        )
        return functional.hflip(pixels) if crop.mirrored else pixels

    return show
