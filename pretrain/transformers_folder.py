"""The config.json of a folder that Transformers loads, of a model of ours; or why it cannot load such a model."""

from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pretrain.layout_writing import ARCHITECTURES, Kind, kind_of
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.vit_sizes import block_sizes, image_sizes, norm_epsilon, peculiarities, side

_TYPES: dict[Kind, str] = {"encoder": "vit", "classifier": "vit", "distilled": "deit", "autoencoder": "vit_mae"}


def transformers_config(
    model: nn.Module,
    *,
    class_names: tuple[str, ...] | None = None,
    several_labels: bool = False,
    mask_ratio: float | None = None,
) -> dict[str, Any]:
    """What config.json must say for Transformers 4 and 5 to build a timm model or a masked autoencoder.

    Args:
        model: whose sizes are taken.
        class_names: of a classifier; None leaves Transformers' LABEL_0, LABEL_1.
        several_labels: an image may belong to several classes, or to none.
        mask_ratio: of a masked autoencoder, which it needs.

    Raises:
        ValueError: Transformers has no class that computes the same, in one line with the format that can be published.
    """
    kind = kind_of(model)
    encoder = model.encoder if isinstance(model, MaskedAutoencoder) else model
    _check(encoder, kind)
    assert isinstance(encoder, VisionTransformer)
    blocks, images = block_sizes(encoder.blocks), image_sizes(encoder)
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": _TYPES[kind],
        "dtype": "float32",
        "hidden_size": blocks.width,
        "num_hidden_layers": blocks.depth,
        "num_attention_heads": blocks.heads,
        "intermediate_size": blocks.hidden,
        "hidden_act": "gelu",
        "qkv_bias": blocks.has_qkv_bias,
        "layer_norm_eps": norm_epsilon(model),
        "image_size": side(images.image),
        "patch_size": side(images.patch),
        "num_channels": images.channels,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if isinstance(model, MaskedAutoencoder):
        return config | _autoencoder(model, mask_ratio)
    classes: int = getattr(model, "num_classes", 0)
    if classes:
        names = class_names or tuple(f"LABEL_{number}" for number in range(classes))
        assert len(names) == classes
        config["id2label"] = {str(number): name for number, name in enumerate(names)}
        config["label2id"] = {name: number for number, name in enumerate(names)}
        config["problem_type"] = f"{'multi' if several_labels else 'single'}_label_classification"
    return config


def _autoencoder(model: MaskedAutoencoder, mask_ratio: float | None) -> dict[str, Any]:
    encoder, decoder = block_sizes(model.encoder.blocks), block_sizes(model.decoder_blocks)
    unlike = {
        "images or patches that are not square": not image_sizes(model.encoder).is_square,
        "queries with biases in its decoder alone": encoder.has_qkv_bias != decoder.has_qkv_bias,
        "norms that add different values to the variance": norm_epsilon(model) is None,
    }
    found = [feature for feature, is_there in unlike.items() if is_there]
    if found:
        raise _refusal(", ".join(found), "autoencoder")
    assert mask_ratio is not None
    assert int(model.patches * (1 - mask_ratio)) == model.visible
    return {
        "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.heads,
        "decoder_intermediate_size": decoder.hidden,
        "mask_ratio": mask_ratio,
        "norm_pix_loss": model.normalize_targets,
    }


def _check(model: nn.Module, kind: Kind) -> None:
    found = peculiarities(model)
    if found:
        raise _refusal(", ".join(found), kind)
    assert isinstance(model, VisionTransformer)
    channels = image_sizes(model).channels
    if channels != 3:
        raise _refusal(f"images of {channels} channels, which its image processors do not prepare", kind)
    if kind == "encoder" and hasattr(model, "dist_token"):
        raise _refusal("a distillation token without heads", kind)


def _refusal(reason: str, kind: Kind) -> ValueError:
    what = "publish its encoder alone, without its decoder," if kind == "autoencoder" else "publish it"
    return ValueError(f"Transformers' {ARCHITECTURES[kind]} has no place for {reason}; {what} with --format timm")
