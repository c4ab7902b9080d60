"""Between stored pixels and what a model sees: uint8, channels last <-> normalised float, channels first."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data_pipeline.manifest import Manifest

# Means and deviations of ImageNet's training images, as torchvision and timm have them.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Normalization:
    """Channel means and standard deviations of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize(self, images: UInt8[Tensor, "b h w c"]) -> Float[Tensor, "b c h w"]:
        """Pixels as a model sees them, on the images' device."""
        mean, std = self._columns(images.device)
        return (images.permute(0, 3, 1, 2).float() - mean * 255) / (std * 255)

    def restore(self, images: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b h w c"]:
        """Pixels as a person sees them, cut off at black and white."""
        mean, std = self._columns(images.device)
        pixels = (images * std + mean).clamp(0, 1) * 255
        return pixels.round().to(torch.uint8).permute(0, 2, 3, 1)

    def _columns(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (self.mean, self.std))
        return mean, std


def choose_normalization(whose: Literal["imagenet", "dataset"], manifest: Manifest) -> Normalization:
    """ImageNet's, or the dataset's own. A deviation of 0, of images of one colour, is taken as 1/255."""
    if whose == "imagenet":
        return Normalization(_IMAGENET_MEAN, _IMAGENET_STD)
    statistics = manifest.statistics
    return Normalization(statistics.mean, tuple(max(value, 1 / 255) for value in statistics.std))
