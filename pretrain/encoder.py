"""The encoder: timm's VisionTransformer by name, whatever of it the masked forward supports, and how it starts.

Nothing here draws from the global random state.
"""

import difflib
import math
from typing import Any, Literal

import timm
import torch
from jaxtyping import Float
from timm.layers.attention import Attention
from timm.layers.layer_scale import LayerScale
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from pretrain.config import EncoderConfig, check_heads, check_sincos_width

Size = tuple[int, int]


def create_encoder(config: EncoderConfig) -> VisionTransformer:
    """A timm VisionTransformer without a head, with its class token and its final `norm`, on the CPU.

    Its parameters are NaN, seen in the first loss, until `initialize_encoder` or a checkpoint fills them. ValueError if
    timm knows no such model, its heads do not fit its width, or the masked forward would differ from timm's own.
    """
    # Under mean pooling timm would name the final norm fc_norm, as no checkpoint of an encoder does.
    return _create(config, num_classes=0, global_pool="token", fc_norm=False)


def create_classifier(
    config: EncoderConfig, *, classes: int, pool: Literal["mean", "token"], drop_path: float
) -> VisionTransformer:
    """The same with a head on the class token after `norm`, or on the patches' mean after `fc_norm` (`norm` is then
    absent); parameters are NaN. `drop_path` is the last block's rate, growing linearly from 0 at the first.
    """
    how: dict[str, Any] = {"global_pool": "avg", "fc_norm": True} if pool == "mean" else {"global_pool": "token"}
    return _create(config, num_classes=classes, drop_path_rate=drop_path, **{"fc_norm": False, **how})


def _create(config: EncoderConfig, **head: Any) -> VisionTransformer:
    if not timm.is_model(config.name):
        close = ", ".join(difflib.get_close_matches(config.name, timm.list_models(), n=3, cutoff=0))
        raise ValueError(f"--encoder.name {config.name} is no model of timm {timm.__version__}; the closest: {close}")
    with torch.device("meta"):
        plain = check_supported(timm.create_model(config.name, num_classes=0), config.name)
        attention = plain.get_submodule("blocks.0.attn")
        assert isinstance(attention, Attention)
        check_heads("encoder", config.width or plain.embed_dim, config.heads or attention.num_heads)
        sizes = {"img_size": config.image_size, "patch_size": config.patch_size, "in_chans": config.channels}
        sizes |= {"embed_dim": config.width, "depth": config.depth, "num_heads": config.heads}
        encoder = timm.create_model(config.name, **sizes, **head)
    encoder = check_supported(encoder, config.name)
    assert encoder.patch_embed.grid_size == config.grid
    allocate(encoder)
    return encoder


def check_supported(encoder: nn.Module, name: str) -> VisionTransformer:
    """The encoder itself; ValueError, naming the feature, where the masked forward would differ from timm's own."""
    features = unsupported_features(encoder)
    if features:
        plain = "a plain one such as vit_base_patch16_224"
        raise ValueError(f"--encoder.name {name}: the masked forward does not support {features[0]}; choose {plain}")
    assert isinstance(encoder, VisionTransformer)
    return encoder


def unsupported_features(encoder: nn.Module) -> list[str]:
    """What makes a model another thing than timm's plain vision transformer; nothing for a plain one."""
    # A subclass may override any part of the forward, so only the class itself will do.
    if not isinstance(encoder, VisionTransformer) or type(encoder) is not VisionTransformer:
        refused = {
            "rotary positions (RoPE)": getattr(encoder, "rope", None) is not None,
            "a distillation token": hasattr(encoder, "dist_token"),
            f"a {type(encoder).__name__}, which is not timm's VisionTransformer": True,
        }
    else:
        embed, block, norms = encoder.patch_embed, encoder.blocks[0], (encoder.norm, encoder.fc_norm)
        refused = {
            "register tokens": encoder.reg_token is not None,
            "a model without a class token": encoder.cls_token is None,
            "a model without position embeddings": encoder.pos_embed is None,
            "a class token without a position (no_embed_class)": encoder.no_embed_class,
            "a norm before the blocks (norm_pre)": not isinstance(encoder.norm_pre, nn.Identity),
            "dynamic image sizes (dynamic_img_size)": encoder.dynamic_img_size,
            f"a patch embedding of class {type(embed).__name__}": type(embed) is not PatchEmbed,
            "a norm in the patch embedding": not isinstance(getattr(embed, "norm", None), nn.Identity),
            "dropping patches (patch_drop)": not isinstance(encoder.patch_drop, nn.Identity),
            f"blocks of class {type(block).__name__}": type(block) is not Block,
            "another kind of attention": type(getattr(block, "attn", None)) is not Attention,
            "another final norm than LayerNorm": not any(isinstance(norm, nn.LayerNorm) for norm in norms),
        }
    return [feature for feature, is_present in refused.items() if is_present]


def sincos_positions(grid: Size, width: int) -> Float[Tensor, "tokens width"]:
    """Fixed two-dimensional sine-cosine positions of a (rows, columns) grid, a row of zeros for the class token first.

    The first half of the channels encodes the column and the second the row, each as sines and then cosines, at rates
    from 1 down to 1/10000 (Vaswani et al. 2017, arXiv:1706.03762, section 3.5, an axis at a time). ValueError if the
    width is not divisible by 4.
    """
    check_sincos_width("encoder", width)
    rates = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * rates for axis in (column, row)]  # each (n, width / 4)
    positions = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return nn.functional.pad(positions, (0, 0, 1, 0)).float()


@torch.no_grad()
def initialize_encoder(encoder: VisionTransformer, generator: torch.Generator) -> None:
    """Fill every parameter as masked autoencoders start; the generator must be on the encoder's device.

    Xavier-uniform linears (appendix A.1), the patch projection as one over the values of a patch; biases 0; norms 1 and
    0; class token N(0, .02), as released; sine-cosine positions. ValueError if the width is not divisible by 4.
    """
    encoder.get_parameter("pos_embed").copy_(sincos_positions(encoder.patch_embed.grid_size, encoder.embed_dim)[None])
    initialize_layers(encoder, generator)
    projection = encoder.patch_embed.proj
    nn.init.xavier_uniform_(projection.weight.view(encoder.embed_dim, -1), generator=generator)
    nn.init.zeros_(projection.bias)
    nn.init.normal_(encoder.get_parameter("cls_token"), std=0.02, generator=generator)


def initialize_layers(parent: nn.Module, generator: torch.Generator) -> None:
    """Xavier-uniform linears without bias; norms and layer scales as they start."""
    for layer in parent.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm | LayerScale):
            layer.reset_parameters()


@torch.no_grad()
def allocate(module: nn.Module) -> None:
    """Give a module on the meta device parameters on the CPU, all NaN until something fills them."""
    module.to_empty(device="cpu")
    for parameter in module.parameters():
        parameter.fill_(math.nan)
