"""Which model is fine-tuned, as a frozen dataclass that imports nothing heavy."""

import ast
from dataclasses import dataclass
from typing import Any, Literal

from pretrain.config import EncoderConfig, check_architecture, check_pixels, check_positive

Pool = Literal["mean", "token", "own"]


@dataclass(frozen=True)
class BackboneConfig:
    """Any timm model by its registered name, and what to change in it.

    Raises:
        ValueError: the name asks for pretrained weights, a size is not positive, or an argument is not `name=value`.
    """

    name: str
    """Registered timm name, without a weights tag: vit_base_patch16_224, swin_tiny_patch4_window7_224, resnet50."""
    image_size: tuple[int, int] | None = None
    """Height and width, in pixels; None: those that timm states for the model."""
    patch_size: tuple[int, int] | None = None
    """Height and width of a patch, in pixels, of a model that has patches; None keeps the model's."""
    channels: int = 3
    """Channels of the images."""
    width: int | None = None
    """Width of a transformer's tokens; None keeps the model's."""
    depth: int | None = None
    """Number of a transformer's blocks; None keeps the model's."""
    heads: int | None = None
    """Attention heads of a block; None keeps the model's."""
    arguments: tuple[str, ...] = ()
    """Further arguments of timm's model, as `name=value`: window_size=8 mlp_ratio=3.0"""

    def __post_init__(self) -> None:
        check_architecture("encoder", self.name)
        for option in ("image_size", "patch_size"):
            if getattr(self, option) is not None:
                check_pixels("encoder", option, getattr(self, option))
        check_positive("encoder", channels=self.channels, width=self.width, depth=self.depth, heads=self.heads)
        assert self.keywords is not None  # reading them checks them

    @property
    def keywords(self) -> dict[str, Any]:
        """`arguments` as Python values; what is no literal is a string."""
        found: dict[str, Any] = {}
        for argument in self.arguments:
            name, equals, text = argument.partition("=")
            if not equals or not name.isidentifier():
                raise ValueError(
                    f"--encoder.arguments expects name=value, such as window_size=8, got {argument!r}; separate "
                    "several by spaces, and put quotes around a value with spaces"
                )
            try:
                found[name] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                found[name] = text
        return found

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, of a model whose sizes are known."""
        assert self.image_size is not None
        return self.image_size

    @property
    def plain(self) -> EncoderConfig:
        """The same of a plain vision transformer whose sizes are known.

        Raises:
            ValueError: the image is not divisible by the patch, or the width not by the heads.
        """
        assert self.patch_size is not None
        return EncoderConfig(self.name, self.size, self.patch_size, self.channels, self.width, self.depth, self.heads)
