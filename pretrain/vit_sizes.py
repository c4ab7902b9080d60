"""The sizes of a vision transformer of timm's, and in what it is another than the one that all libraries have."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.layers.patch_embed import PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from pretrain.attention import PackedAttention

MEAN_POOLING = "pooling of the patch tokens"
LAYER_SCALE = "layer scale"
UNPLACED_CLASS = "a class token without a position"


@dataclass(frozen=True)
class BlockSizes:
    """Of the blocks of an encoder or a decoder; `hidden` is the width inside their MLPs."""

    width: int
    depth: int
    heads: int
    hidden: int
    has_qkv_bias: bool

    @property
    def mlp_ratio(self) -> float:
        """The hidden width over the width, as `ratio_of` gives it."""
        return ratio_of(self.hidden, self.width)


@dataclass(frozen=True)
class ImageSizes:
    """Height and width of the images and of their patches, in pixels, and the channels."""

    image: tuple[int, int]
    patch: tuple[int, int]
    channels: int

    @property
    def is_square(self) -> bool:
        """Whether both images and patches are."""
        return len(set(self.image)) == 1 and len(set(self.patch)) == 1


def ratio_of(hidden: int, width: int) -> float:
    """The ratio of two widths of which timm and facebook's code, rounding down, make the first again."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def block_sizes(blocks: Iterable[nn.Module]) -> BlockSizes:
    """Sizes of timm's blocks, which must be `Block`."""
    found = [block for block in blocks if isinstance(block, Block)]
    first = found[0]
    attention, mlp = first.get_submodule("attn"), first.get_submodule("mlp")
    assert isinstance(attention, Attention)
    assert isinstance(mlp, Mlp)
    hidden, width = mlp.fc1.weight.shape
    return BlockSizes(width, len(found), attention.num_heads, hidden, attention.qkv.bias is not None)


def image_sizes(model: VisionTransformer) -> ImageSizes:
    """Sizes of the images that a vision transformer takes."""
    embed: Any = model.patch_embed
    (height, width), (rows, columns) = embed.img_size, embed.patch_size
    return ImageSizes((height, width), (rows, columns), embed.proj.in_channels)


def norm_epsilon(model: nn.Module) -> float | None:
    """What the norms add to the variance; None where they do not all add the same."""
    found = {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)}
    return found.pop() if len(found) == 1 else None


def peculiarities(model: nn.Module) -> tuple[str, ...]:
    """In what a model is another than a plain vision transformer with or without a distillation token; none if it is.

    Layer scale, pooling of the patch tokens and a class token without a position are told by the names above.
    """
    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        return (f"a model of class {type(model).__name__}, which is no plain vision transformer",)
    assert isinstance(model, VisionTransformer)
    features = {
        MEAN_POOLING: model.global_pool != "token",
        "register tokens": getattr(model, "reg_token", None) is not None,
        "a model without a class token": model.cls_token is None,
        "a model without position embeddings": model.pos_embed is None,
        UNPLACED_CLASS: model.no_embed_class,
        "a norm before the blocks": not isinstance(model.norm_pre, nn.Identity),
        "a patch embedding of another kind": type(model.patch_embed) is not PatchEmbed
        or not isinstance(model.patch_embed.norm, nn.Identity),
        "norms that add different values to the variance": norm_epsilon(model) is None,
        **_peculiarities_of(list(model.blocks)),
    }
    return tuple(feature for feature, is_there in features.items() if is_there)


def _peculiarities_of(blocks: list[nn.Module]) -> dict[str, bool]:
    attentions = [getattr(block, "attn", None) for block in blocks]
    mlps = [getattr(block, "mlp", None) for block in blocks]
    if not (
        {type(block) for block in blocks} == {Block}
        and {type(part) for part in attentions} <= {Attention, PackedAttention}
        and {type(part) for part in mlps} == {Mlp}
    ):
        return {"blocks of another kind": True}
    return {
        LAYER_SCALE: _has(blocks, "ls1", "ls2"),
        "query-key norms": _has(attentions, "q_norm", "k_norm"),
        "gated attention": _has(attentions, "gate"),
        "norms within attention or its MLPs": _has((*attentions, *mlps), "norm"),
        "an activation other than GELU": any(repr(getattr(part, "act", None)) != repr(nn.GELU()) for part in mlps),
        "blocks of different sizes": len({tuple(each.shape for each in block.parameters()) for block in blocks}) > 1,
    }


def _has(parts: Iterable[nn.Module | None], *names: str) -> bool:
    return any(not isinstance(getattr(part, name, None), nn.Identity | None) for part in parts for name in names)


def side(size: tuple[int, int]) -> int | list[int]:
    """A size as config.json has it: one number for a square."""
    return size[0] if size[0] == size[1] else list(size)
