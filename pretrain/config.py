"""What a pre-training run is made of, as frozen dataclasses that import nothing heavy.

The messages name options as they stand when a run's own dataclass holds these under the fields `encoder`, `decoder`,
`objective` and `optimizer`.
"""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EncoderConfig:
    """A timm VisionTransformer by its registered name, and what to change in it.

    Raises:
        ValueError: the name asks for pretrained weights, a size is not positive, the image is not divisible by the
            patch, or the width is not divisible by the heads.
    """

    name: str
    """Registered timm name, without a weights tag: vit_base_patch16_224."""
    image_size: tuple[int, int]
    """Height and width, in pixels."""
    patch_size: tuple[int, int]
    """Height and width of a patch, in pixels."""
    channels: int = 3
    """Channels of the images."""
    width: int | None = None
    """Width of the tokens; None keeps the model's."""
    depth: int | None = None
    """Number of blocks; None keeps the model's."""
    heads: int | None = None
    """Attention heads of a block; None keeps the model's."""

    def __post_init__(self) -> None:
        check_architecture("encoder", self.name)
        for option in ("image_size", "patch_size"):
            check_pixels("encoder", option, getattr(self, option))
        check_positive("encoder", channels=self.channels, width=self.width, depth=self.depth, heads=self.heads)
        if self.width is not None and self.heads is not None:
            check_heads("encoder", self.width, self.heads)
        self._check_divisible()

    def _check_divisible(self) -> None:
        square = len(set(self.image_size)) == 1 and len(set(self.patch_size)) == 1
        for axis, size, patch in zip(("height", "width"), self.image_size, self.patch_size, strict=True):
            if size % patch == 0:
                continue
            below = size - size % patch
            nearest = ", ".join(str(fitting) for fitting in (below, below + patch) if fitting > 0)
            if square:
                where = f"--encoder.image-size {size} is not divisible by the patch size {patch}"
            else:
                where = (
                    f"--encoder.image-size {_spaced(self.image_size)}: "
                    f"the {axis} {size} is not divisible by the patch {axis} {patch}"
                )
            raise ValueError(f"{where}; the nearest that are: {nearest}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return math.prod(self.grid)


@dataclass(frozen=True)
class DecoderConfig:
    """The decoder that pre-training throws away. Defaults: He et al. 2022 (arXiv:2111.06377), Table 1.

    Raises:
        ValueError: a size is not positive, or the width is divisible neither by 4 nor by the heads.
    """

    width: int = 512
    """Width of the decoder's tokens."""
    depth: int = 8
    """Number of decoder blocks."""
    heads: int = 16
    """Attention heads of a decoder block."""

    def __post_init__(self) -> None:
        check_positive("decoder", width=self.width, depth=self.depth, heads=self.heads)
        check_heads("decoder", self.width, self.heads)
        check_sincos_width("decoder", self.width)


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is hidden and what is predicted. Defaults: He et al. 2022 (arXiv:2111.06377), section 4.1 and Table 1d.

    Raises:
        ValueError: the mask ratio does not lie strictly between 0 and 1.
    """

    mask_ratio: float = 0.75
    """Share of the patches that is hidden from the encoder."""
    normalize_targets: bool = True
    """Predict each patch's pixels less their mean, over their standard deviation."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise ValueError(
                f"--objective.mask-ratio expects a share strictly between 0 and 1, got {self.mask_ratio}; "
                f"the published models hide 0.75"
            )

    def visible_patches(self, patches: int) -> int:
        """How many of an image's patches the encoder sees; the fraction of a patch left over is hidden.

        Raises:
            ValueError: none would be visible.
        """
        visible = int(patches * (1 - self.mask_ratio))
        if visible < 1 or patches < 2:
            if patches < 2:
                fix = "choose a smaller --encoder.patch-size"
            else:
                fix = f"pass at most {math.floor(1000 * (1 - 1 / patches)) / 1000}"
            raise ValueError(
                f"--objective.mask-ratio {self.mask_ratio} leaves {visible} visible of {patches} patches, "
                f"expected at least one visible and one hidden; {fix}"
            )
        assert visible < patches
        return visible


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule. Defaults: He et al. 2022 (arXiv:2111.06377), appendix A.1, Table 8.

    Raises:
        ValueError: a number lies outside its range.
    """

    base_lr: float = 1.5e-4
    """Learning rate of a batch of 256; the peak is base_lr x batch / 256. (DeiT III's 3e-3 is a peak, at 2,048.)"""
    weight_decay: float = 0.05
    """Weight decay, on tensors of two or more dimensions: added to the gradient by sgd, to the update by the others."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of the two running averages of adamw and lamb."""
    warmup_epochs: float = 40.0
    """Epochs of linear warm-up from 0."""
    min_lr: float = 0.0
    """Where the cosine ends."""
    clip_norm: float | None = None
    """Gradients longer than this are scaled down to it; None never clips."""
    algorithm: Literal["adamw", "lamb", "sgd"] = "adamw"
    """lamb: for batches of thousands, as DeiT III; sgd: with Nesterov momentum, as convolutional networks often are."""
    momentum: float = 0.9
    """Decay rate of sgd's running sum of gradients."""

    def __post_init__(self) -> None:
        accepted = {
            "base-lr": (self.base_lr > 0, "a positive number", self.base_lr),
            "weight-decay": (self.weight_decay >= 0, "zero or more", self.weight_decay),
            "betas": (all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)", _spaced(self.betas)),
            "warmup-epochs": (self.warmup_epochs >= 0, "zero or more", self.warmup_epochs),
            "min-lr": (self.min_lr >= 0, "zero or more", self.min_lr),
            "clip-norm": (self.clip_norm is None or self.clip_norm > 0, "a positive number or None", self.clip_norm),
            "momentum": (0 < self.momentum < 1, "a number strictly between 0 and 1", self.momentum),
        }
        for option, (fits, expected, got) in accepted.items():
            if not fits:
                raise ValueError(f"--optimizer.{option} expects {expected}, got {got}")
        if self.algorithm != "sgd" and self.momentum != type(self).momentum:
            raise ValueError(
                f"--optimizer.momentum {self.momentum:g} expects --optimizer.algorithm sgd, got {self.algorithm}; "
                f"pass --optimizer.betas {self.momentum:g} {self.betas[1]:g} instead"
            )

    def check_epochs(self, epochs: float) -> None:
        """Raise ValueError unless some epochs follow the warm-up."""
        if self.warmup_epochs >= epochs:
            raise ValueError(
                f"--optimizer.warmup-epochs {self.warmup_epochs:g} leaves nothing of the run's {epochs:g} epochs; "
                f"pass less, such as {epochs / 20:g}, or train longer"
            )


def check_heads(part: str, width: int, heads: int) -> None:
    """Raise ValueError unless the heads share the width equally; part is "encoder" or "decoder"."""
    if width % heads != 0:
        fitting = [count for count in range(1, width + 1) if width % count == 0]
        nearest = ", ".join(map(str, sorted(sorted(fitting, key=lambda count: abs(count - heads))[:3])))
        raise ValueError(
            f"--{part}.width {width} is not divisible by --{part}.heads {heads}; the nearest heads that fit: {nearest}"
        )


def check_sincos_width(part: str, width: int) -> None:
    """Raise ValueError unless a sine and a cosine of a row and of a column share the width equally."""
    if width % 4 != 0:
        nearest = ", ".join(str(fitting) for fitting in (width - width % 4, width - width % 4 + 4) if fitting > 0)
        raise ValueError(
            f"--{part}.width {width} is not divisible by 4, as sine-cosine positions need; "
            f"the nearest that are: {nearest}"
        )


def check_architecture(part: str, name: str) -> None:
    """Raise ValueError where the name is that of weights and not of an architecture alone."""
    if "." in name or ":" in name:
        raise ValueError(
            f"--{part}.name {name} names pretrained weights, expected an architecture alone; "
            f"pass {name.rpartition(':')[2].rpartition('/')[2].partition('.')[0]} and load weights separately"
        )


def check_pixels(part: str, option: str, size: tuple[int, int]) -> None:
    """Raise ValueError unless a size is of at least one pixel each way."""
    if min(size) < 1:
        raise ValueError(
            f"--{part}.{option.replace('_', '-')} expects two positive numbers of pixels (height width), "
            f"got {_spaced(size)}"
        )


def check_positive(part: str, **sizes: int | None) -> None:
    """Raise ValueError unless the sizes that are given are positive."""
    for option, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"--{part}.{option} expects a positive number, got {size}")


def _spaced(numbers: tuple[int | float, ...]) -> str:
    return " ".join(map(str, numbers))
