"""What config.json says of weights that others have made, and the tensors alone do not show."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch

Size = tuple[int, int]

NORM_EPSILON = 1e-6
"""What the norms of every vision transformer here add to the variance, as timm's and facebook's do."""
_OF_TRANSFORMERS = 1e-12  # where its config.json does not say it


@dataclass(frozen=True)
class Stated:
    """Heads of the blocks, image size in pixels (rows, columns), the blocks' activation by Transformers' name, whether
    the decoder predicts normalised patches, what the norms add to the variance; None where nothing is said.
    """

    heads: int | None = None
    decoder_heads: int | None = None
    image_size: Size | None = None
    activation: str | None = None
    normalize_targets: bool | None = None
    norm_epsilon: float | None = None


def stated_by(config: Mapping[str, Any]) -> Stated:
    """Read the config.json of timm, of Transformers, or of facebook's classes as sherd writes it; of another nothing is
    taken."""
    if "architecture" in config:
        return _timm(config)
    if "model_type" in config:
        return Stated(
            heads=_number(config.get("num_attention_heads")),
            decoder_heads=_number(config.get("decoder_num_attention_heads")),
            image_size=_size(config.get("image_size")),
            activation=str(config.get("hidden_act", "gelu")),
            normalize_targets=bool(config["norm_pix_loss"]) if "norm_pix_loss" in config else None,
            norm_epsilon=_real(config.get("layer_norm_eps", _OF_TRANSFORMERS)),
        )
    if "model" in config and "arguments" in config:
        arguments = _mapping(config["arguments"])
        return Stated(
            heads=_number(arguments.get("num_heads")),
            decoder_heads=_number(arguments.get("decoder_num_heads")),
            image_size=_size(arguments.get("img_size")),
            normalize_targets=bool(arguments["norm_pix_loss"]) if "norm_pix_loss" in arguments else None,
            norm_epsilon=_real(config.get("layer_norm_eps")),
        )
    return Stated()


def _timm(config: Mapping[str, Any]) -> Stated:
    arguments, described = _mapping(config.get("model_args")), _mapping(config.get("pretrained_cfg"))
    name, channels_and_size = str(config["architecture"]), described.get("input_size")
    size = channels_and_size[1:] if isinstance(channels_and_size, list) else None
    heads = _number(arguments.get("num_heads"))
    if heads is None and timm.is_model(name):
        with torch.device("meta"):
            blocks = getattr(timm.create_model(name), "blocks", None)
        attention = getattr(blocks[0], "attn", None) if blocks is not None and len(blocks) else None
        heads = _number(getattr(attention, "num_heads", None))
    return Stated(heads=heads, image_size=_size(arguments.get("img_size", size)))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _real(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _size(value: object) -> Size | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return value[0], value[1]
    return None
