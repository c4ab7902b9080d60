"""The config.json of a folder in the layout of facebook's MAE and DeiT code: their class and what it is built with.

Their files hold weights alone. This says beside them what else is needed, in the words of their own code.
"""

from typing import Any

from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.vit_sizes import (
    LAYER_SCALE,
    MEAN_POOLING,
    UNPLACED_CLASS,
    block_sizes,
    image_sizes,
    norm_epsilon,
    peculiarities,
    side,
)


def facebook_config(model: nn.Module, *, class_names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The class of facebook's code that computes what a timm model or a masked autoencoder does, and its arguments.

    `model` is MaskedAutoencoderViT or VisionTransformer of MAE's code, or DistilledVisionTransformer or vit_models of
    DeiT's. `layer_norm_eps` is that of the `norm_layer` which these have to be given.

    Raises:
        ValueError: there is no such class, in one line with the format that can be published.
    """
    encoder = model.encoder if isinstance(model, MaskedAutoencoder) else model
    name, others = _class_of(model, encoder)
    if others:
        what = "publish its encoder alone, without its decoder," if encoder is not model else "publish it"
        raise ValueError(f"facebook's {name} has no place for {', '.join(others)}; {what} with --format timm")
    assert isinstance(encoder, VisionTransformer)
    blocks, images = block_sizes(encoder.blocks), image_sizes(encoder)
    arguments: dict[str, Any] = {
        "img_size": side(images.image),
        "patch_size": side(images.patch),
        "in_chans": images.channels,
        "embed_dim": blocks.width,
        "depth": blocks.depth,
        "num_heads": blocks.heads,
        "mlp_ratio": blocks.mlp_ratio,
    }
    config: dict[str, Any] = {"model": name, "arguments": arguments, "layer_norm_eps": norm_epsilon(model)}
    if isinstance(model, MaskedAutoencoder):
        decoder = block_sizes(model.decoder_blocks)
        arguments |= {
            "decoder_embed_dim": decoder.width,
            "decoder_depth": decoder.depth,
            "decoder_num_heads": decoder.heads,
            "norm_pix_loss": model.normalize_targets,
        }
        return config
    arguments |= {"num_classes": encoder.num_classes, "qkv_bias": blocks.has_qkv_bias}
    if name == "VisionTransformer":
        arguments["global_pool"] = encoder.global_pool == "avg"
    if name == "vit_models":
        config["block_layers"] = "Layer_scale_init_Block"
    if class_names is not None:
        assert len(class_names) == encoder.num_classes
        config["class_names"] = list(class_names)
    return config


def _class_of(model: nn.Module, encoder: nn.Module) -> tuple[str, list[str]]:
    """The class, and what it has no place for."""
    found = set(peculiarities(encoder))
    if isinstance(model, MaskedAutoencoder):
        return "MaskedAutoencoderViT", [*sorted(found), *_unlike_autoencoder(model)]
    if isinstance(encoder, VisionTransformerDistilled):
        return "DistilledVisionTransformer", sorted(found)
    if {LAYER_SCALE, UNPLACED_CLASS} <= found:
        return "vit_models", sorted(found - {LAYER_SCALE, UNPLACED_CLASS})
    if MEAN_POOLING in found and getattr(encoder, "global_pool", None) == "avg" and _has_own_norm(encoder):
        found.remove(MEAN_POOLING)
    return "VisionTransformer", sorted(found)


def _unlike_autoencoder(model: MaskedAutoencoder) -> list[str]:
    images = image_sizes(model.encoder)
    encoder, decoder = block_sizes(model.encoder.blocks), block_sizes(model.decoder_blocks)
    unlike = {
        "images or patches that are not square": not images.is_square,
        f"images of {images.channels} channels": images.channels != 3,
        "MLPs of another ratio in its decoder": encoder.mlp_ratio != decoder.mlp_ratio,
        "queries without biases": not encoder.has_qkv_bias,
        "norms that add different values to the variance": norm_epsilon(model) is None,
    }
    return [feature for feature, is_there in unlike.items() if is_there]


def _has_own_norm(encoder: nn.Module) -> bool:
    """Whether what is pooled is normed after, as facebook's `global_pool` does it."""
    return isinstance(getattr(encoder, "fc_norm", None), nn.LayerNorm)
