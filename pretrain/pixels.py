"""Between stored pixels and what a model sees: of any type, channels last <-> normalised float, channels first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float32, UInt8, UInt16
from torch import Tensor

from data_pipeline.manifest import Manifest
from data_pipeline.rows import Part

# What is white: the values of a manifest's statistics are shares of it.
_FULL_SCALE = {torch.uint8: 255, torch.uint16: 65_535, torch.float32: 1}
# Floats are summed with rounding: a channel of one value has been seen to deviate by a ten-millionth of it.
_NOISE = 1e-6
# Of values that say nothing of black and white, those further from the mean are cut off.
_SHOWN_DEVIATIONS = 3


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, of a full scale of 1: uint8 / 255, uint16 / 65,535, floats as is."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize(
        self, images: UInt8[Tensor, "b h w c"] | UInt16[Tensor, "b h w c"] | Float32[Tensor, "b h w c"]
    ) -> Float[Tensor, "b c h w"]:
        """Pixels as a model sees them, on the images' device."""
        mean, std = self._columns(images.device)
        scale = _FULL_SCALE[images.dtype]
        return (images.permute(0, 3, 1, 2).float() - mean * scale) / (std * scale)

    def restore(self, images: Float[Tensor, "b c h w"], stored: torch.dtype = torch.uint8) -> UInt8[Tensor, "b h w c"]:
        """Pixels as a person sees them, cut off at black and white.

        Of images that were `stored` in uint8 they are what they were. Other types are seldom filled from 0 to their
        full scale (12 bits in 16, reflectances): each channel goes from 3 deviations below its mean to 3 above.
        """
        if stored == torch.uint8:
            mean, std = self._columns(images.device)
            shares = images * std + mean
        else:
            shares = images / (2 * _SHOWN_DEVIATIONS) + 0.5
        return (shares.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)

    def _columns(self, device: torch.device) -> tuple[Tensor, Tensor]:
        return column(self.mean, device), column(self.std, device)


def column(values: Sequence[float], device: torch.device) -> Float[Tensor, "c 1 1"]:
    """One value for each channel, to be broadcast over pixels."""
    # From scalars: for a list that is copied to it a GPU makes the host wait, at every step.
    return torch.stack([torch.full((1, 1), value, device=device) for value in values])


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Means and deviations of ImageNet's training images, as torchvision and timm have them."""


def choose_normalization(whose: Literal["imagenet", "dataset"], manifest: Manifest) -> Normalization:
    """ImageNet's, or the dataset's own, in which a channel of one value has a deviation of 1: it becomes 0.

    Raises:
        ValueError: ImageNet's for images that are not RGB in uint8.
    """
    if whose == "dataset":
        mean, std = manifest.statistics.mean, manifest.statistics.std
        pairs = zip(mean, std, strict=True)
        return Normalization(mean, tuple(own if own > _NOISE * abs(middle) else 1.0 for middle, own in pairs))
    for name, split in manifest.splits.items():
        if (split.channels, split.dtype) != (3, "uint8"):
            raise ValueError(
                f"--normalization imagenet is for images of 3 channels of uint8, {manifest.folder} [{name}] has "
                f"{split.channels} of {split.dtype}; pass --normalization dataset"
            )
    return IMAGENET


def check_channels(channels: int, parts: list[Part], held_out: str, *, init: str | None = None) -> list[Part]:
    """The parts themselves, on which an encoder of so many channels is to be trained; `init` is the option that named
    it, if one did.

    Raises:
        ValueError: their images, or those of the split `held_out` of the first one's dataset where it has such a one,
            have another number of channels than the encoder takes.
    """
    manifest = parts[0].manifest
    looked_at = [Part(manifest, held_out)] if held_out in manifest.splits else []
    for part in (*parts, *looked_at):
        split = part.manifest.split(part.split)
        if split.channels != channels:
            grey = "" if split.extension == "npy" else " (grey pictures are read as RGB with equal channels)"
            fix = f"pass --encoder.channels {split.channels}"
            if init is not None:
                fix = f"give an encoder for such images with {init}"
            raise ValueError(
                f"{part.manifest.folder} [{part.split}]: expected images of {channels} channels, as many as "
                f"the encoder takes, got {split.channels}{grey}; {fix}"
            )
    return parts
