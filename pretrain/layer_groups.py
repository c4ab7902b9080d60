"""The layers of a model in order, for learning rates that differ by layer and for training only the last of them."""

from collections.abc import Mapping
from typing import Any

from timm.models import group_parameters
from timm.models.vision_transformer import VisionTransformer
from torch import nn

_BEFORE_THE_BLOCKS = frozenset({"patch_embed", "cls_token", "dist_token", "reg_token", "pos_embed", "norm_pre"})


def layers_of(model: nn.Module, *, otherwise: str = "pass --layer-decay None") -> tuple[dict[str, int], int]:
    """The layer of every parameter, numbered without gaps from the input, and how many layers there are.

    Of a timm VisionTransformer 0 is what comes before the blocks (patch embedding, tokens, positions), i + 1 is block i
    and the last is final norm and head (Clark et al. 2020, arXiv:2003.10555; Bao et al. 2022, arXiv:2106.08254; as
    released for MAE). Of any other timm model they are those of its `group_matcher`, which counts a final norm with the
    last block; what that leaves out, the head among it, is the last layer.

    Raises:
        ValueError: timm groups no parameters of such a model; `otherwise` is what to do then.
    """
    if isinstance(model, VisionTransformer):
        depth = len(model.blocks)
        return {name: _layer_in_transformer(name, depth) for name, _ in model.named_parameters()}, depth + 2
    if not has_layers(model):
        raise ValueError(
            f"{type(model).__name__} has no group_matcher, from which its layers would be known as those of timm's "
            f"other models are; {otherwise}"
        )
    matcher: Any = model.group_matcher
    layers: Any = group_parameters(model, matcher(coarse=False), reverse=True)
    assert layers.keys() == dict(model.named_parameters()).keys()
    count = max(layers.values()) + 1
    assert set(layers.values()) == set(range(count))
    return layers, count


def has_layers(model: nn.Module) -> bool:
    """Whether `layers_of` knows the layers of such a model."""
    return isinstance(model, VisionTransformer) or hasattr(model, "group_matcher")


def _layer_in_transformer(name: str, depth: int) -> int:
    first, _, rest = name.partition(".")
    if first in _BEFORE_THE_BLOCKS:
        return 0
    return int(rest.partition(".")[0]) + 1 if first == "blocks" else depth + 1


def names_of_layers(layers: Mapping[str, int]) -> list[list[str]]:
    """What each layer is made of: modules and parameters by the shortest names that stand for no other layer's too.

    `layers`: of `layers_of`. A ViT's first layer is cls_token, pos_embed and patch_embed, its second blocks.0.
    """
    found: dict[str, set[int]] = {}
    for name, layer in layers.items():
        for prefix in _prefixes(name):
            found.setdefault(prefix, set()).add(layer)
    names: list[dict[str, None]] = [{} for _ in range(max(layers.values()) + 1)]
    for name, layer in layers.items():
        names[layer][next(prefix for prefix in _prefixes(name) if len(found[prefix]) == 1)] = None
    return [list(some) for some in names]


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: length + 1]) for length in range(len(parts))]
