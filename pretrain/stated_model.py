"""What a folder of Transformers, or of facebook's layout, says of its model: the timm model that computes the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pretrain.backbone_config import BackboneConfig, Pool
from pretrain.stated_config import NORM_EPSILON, stated_by
from pretrain.vit_sizes import ratio_of

_TRANSFORMERS = {
    "vit": ("ViTModel", "ViTForImageClassification"),
    "deit": ("DeiTModel", "DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"),
    "vit_mae": ("ViTMAEModel", "ViTMAEForPreTraining"),
}
_FACEBOOKS = ("MaskedAutoencoderViT", "VisionTransformer", "DistilledVisionTransformer", "vit_models")
# timm's names by (width, depth, heads), those of base size for any others: the sizes are given besides.
_TIMM = {
    "plain": {
        (192, 12, 3): "vit_tiny_patch16_224",
        (384, 12, 6): "vit_small_patch16_224",
        (768, 12, 12): "vit_base_patch16_224",
        (1024, 24, 16): "vit_large_patch16_224",
        (1280, 32, 16): "vit_huge_patch14_224",
    },
    "distilled": {
        (192, 12, 3): "deit_tiny_distilled_patch16_224",
        (384, 12, 6): "deit_small_distilled_patch16_224",
        (768, 12, 12): "deit_base_distilled_patch16_224",
    },
    "DeiT III": {
        (384, 12, 6): "deit3_small_patch16_224",
        (512, 12, 8): "deit3_medium_patch16_224",
        (768, 12, 12): "deit3_base_patch16_224",
        (1024, 24, 16): "deit3_large_patch16_224",
        (1280, 32, 16): "deit3_huge_patch14_224",
    },
}
_BASE = (768, 12, 12)
_FAMILIES = {"deit": "distilled", "DistilledVisionTransformer": "distilled", "vit_models": "DeiT III"}


@dataclass(frozen=True)
class StatedModel:
    """A timm model with its sizes, its classes (0 without a head) and what its head sees, and its norms' epsilon."""

    layout: Literal["transformers", "facebook"]
    backbone: BackboneConfig
    classes: int
    class_names: tuple[str, ...] | None
    pool: Pool
    norm_epsilon: float


def states_model(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is one that `read_stated` is for."""
    return "model_type" in config or ("model" in config and "arguments" in config)


def read_stated(config: Mapping[str, Any], path: Path, said: str) -> StatedModel:
    """What config.json in `path` says.

    Raises:
        ValueError: a model of a kind that timm's vision transformers cannot be, or an incomplete config.json; the
            message begins with `said`.
    """
    try:
        return _of_transformers(config, said) if "model_type" in config else _of_facebook(config, said)
    except (KeyError, TypeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else f"a value of the wrong kind ({error})"
        raise ValueError(
            f"{said}: {path / 'config.json'} has {what}; write it anew with the library it is of"
        ) from error


def with_two_heads(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a model with a distillation token and one head, that of its class token: the same for timm's mean of two.

    Twice the one head and nothing for the other have a mean that is equal to the bit.
    """
    if "dist_token" not in tensors or "head.weight" not in tensors or "head_dist.weight" in tensors:
        return dict(tensors)
    heads = {name: tensor for name, tensor in tensors.items() if name.startswith("head.")}
    none = {f"head_dist.{name.removeprefix('head.')}": torch.zeros_like(tensor) for name, tensor in heads.items()}
    return {**tensors, **{name: 2 * tensor for name, tensor in heads.items()}, **none}


def _of_transformers(config: Mapping[str, Any], said: str) -> StatedModel:
    kind = config["model_type"]
    if kind not in _TRANSFORMERS:
        raise ValueError(
            f"{said}: a {kind} of Transformers, expected one of {', '.join(_TRANSFORMERS)}; give one of these, or "
            "a model of timm"
        )
    written: str = (config.get("architectures") or _TRANSFORMERS[kind][:1])[0]
    if written not in _TRANSFORMERS[kind]:
        raise ValueError(
            f"{said}: holds a {written}, expected one of {', '.join(_TRANSFORMERS[kind])}; give one of these"
        )
    activation = stated_by(config).activation
    if activation != "gelu":
        raise ValueError(f"{said}: its blocks have the activation {activation}, expected gelu; give another model")
    width, hidden = config.get("hidden_size", 768), config.get("intermediate_size", 3072)
    depth, heads = config.get("num_hidden_layers", 12), config.get("num_attention_heads", 12)
    backbone = BackboneConfig(
        name=_name(kind, width, depth, heads),
        image_size=_pair(config.get("image_size", 224)),
        patch_size=_pair(config.get("patch_size", 16)),
        channels=config.get("num_channels", 3),
        width=width,
        depth=depth,
        heads=heads,
        arguments=_arguments(ratio_of(hidden, width), has_qkv_bias=config.get("qkv_bias", True)),
    )
    has_head = "ForImageClassification" in written
    labels = config.get("id2label")
    classes = (len(labels) if labels is not None else config.get("num_labels", 2)) if has_head else 0
    names = _names(labels, classes) if has_head else None
    epsilon = stated_by(config).norm_epsilon
    assert epsilon is not None
    return StatedModel("transformers", backbone, classes, names, "token" if classes else "own", epsilon)


def _of_facebook(config: Mapping[str, Any], said: str) -> StatedModel:
    kind, arguments = config["model"], config["arguments"]
    if kind not in _FACEBOOKS:
        raise ValueError(f"{said}: a {kind}, expected one of facebook's {', '.join(_FACEBOOKS)}; give one of these")
    width, depth, heads = (arguments[name] for name in ("embed_dim", "depth", "num_heads"))
    backbone = BackboneConfig(
        name=_name(kind, width, depth, heads),
        image_size=_pair(arguments["img_size"]),
        patch_size=_pair(arguments["patch_size"]),
        channels=arguments["in_chans"],
        width=width,
        depth=depth,
        heads=heads,
        arguments=_arguments(arguments["mlp_ratio"], has_qkv_bias=arguments.get("qkv_bias", True)),
    )
    classes, names = arguments.get("num_classes", 0), config.get("class_names")
    if names is not None and len(names) != classes:
        raise ValueError(f"{said}: config.json names {len(names)} classes, expected its {classes}; correct class_names")
    pool: Pool = "mean" if arguments.get("global_pool") else "token" if classes else "own"
    epsilon = float(config.get("layer_norm_eps", NORM_EPSILON))
    own = None if names is None else tuple(names)
    return StatedModel("facebook", backbone, classes, own, pool, epsilon)


def _name(kind: str, width: int, depth: int, heads: int) -> str:
    names = _TIMM[_FAMILIES.get(kind, "plain")]
    return names.get((width, depth, heads), names[_BASE])


def _arguments(mlp_ratio: float, *, has_qkv_bias: bool) -> tuple[str, ...]:
    """timm's where they are not what its vision transformers have."""
    ratio = () if mlp_ratio == 4 else (f"mlp_ratio={mlp_ratio!r}",)
    return ratio if has_qkv_bias else (*ratio, "qkv_bias=False")


def _names(labels: Mapping[str, str] | None, classes: int) -> tuple[str, ...] | None:
    """In the order of their numbers; None where they are those that Transformers makes up."""
    if labels is None or any(str(number) not in labels for number in range(classes)):
        return None
    found = tuple(str(labels[str(number)]) for number in range(classes))
    return None if found == tuple(f"LABEL_{number}" for number in range(classes)) else found


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
