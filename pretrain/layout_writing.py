"""Tensors as the files of Transformers and of facebook's code name them, or a refusal that names what has no place."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal

from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from pretrain.key_tables import FACEBOOK, TRANSFORMERS, Tables, their_names
from pretrain.masked_autoencoder import MaskedAutoencoder

Kind = Literal["encoder", "classifier", "distilled", "autoencoder"]

ARCHITECTURES: Mapping[Kind, str] = {
    "encoder": "ViTModel",
    "classifier": "ViTForImageClassification",
    "distilled": "DeiTForImageClassificationWithTeacher",
    "autoencoder": "ViTMAEForPreTraining",
}
"""Transformers' class of each kind."""

_LONE = ("cls_token", "dist_token", "pos_embed", "mask_token", "decoder_pos_embed")
_DECODER = ("mask_token", "decoder_pos_embed", "decoder_embed", "decoder_norm", "decoder_pred")
_LAYER_SCALE = ("ls1.gamma", "ls2.gamma")
_QKV_BIAS = "attn.qkv.bias"


def kind_of(model: nn.Module) -> Kind:
    """What a model is: `distilled` where it has two heads, `encoder` without any."""
    if isinstance(model, MaskedAutoencoder):
        return "autoencoder"
    if getattr(model, "num_classes", 0) == 0:
        return "encoder"
    return "distilled" if isinstance(model, VisionTransformerDistilled) else "classifier"


def shared_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's weights by the names that facebook's files and timm share."""
    return {name.removeprefix("encoder."): tensor.detach() for name, tensor in model.state_dict().items()}


def to_transformers(tensors: Mapping[str, Tensor], kind: Kind) -> dict[str, Tensor]:
    """The same values by the names that version 4 writes and that 4 and 5 read; none shares memory with `tensors`.

    ViTModel's have no prefix, and no pooler. qkv is split by rows into its three.

    Raises:
        ValueError: names that the class of this kind has no place for, or that are missing; all of them are listed.
    """
    tables = TRANSFORMERS[kind]
    expected = _expected(tensors, tuple(tables.top), tables)
    return _written(tensors, expected, tables, f"Transformers' {ARCHITECTURES[kind]}")


def to_facebook(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values by the names of MAE's and DeiT's released files; none shares memory with `tensors`.

    A decoder, a head, a distillation token and DeiT III's layer scale (`gamma_1`) are there where they are here; of a
    model that pools patches the last norm is `fc_norm`.

    Raises:
        ValueError: as `to_transformers`.
    """
    there = {name.partition(".")[0] for name in tensors}
    top = ["cls_token", "pos_embed", "patch_embed.proj", "fc_norm" if "fc_norm" in there else "norm"]
    top += ["head"] * bool({"head", "head_dist"} & there)
    top += ["dist_token"] * bool({"dist_token", "head_dist"} & there)
    top += ["head_dist"] * ({"head", "dist_token"} <= set(top))
    has_decoder = any(name in there for name in (*_DECODER, "decoder_blocks"))
    top += _DECODER if has_decoder else ()
    lists = {name: name for name in FACEBOOK.lists if name == "blocks" or has_decoder}
    tables = Tables({name: FACEBOOK.top[name] for name in top}, lists, FACEBOOK.block)
    return _written(tensors, _expected(tensors, tuple(top), tables), tables, "facebook's files")


def _expected(tensors: Mapping[str, Tensor], top: Iterable[str], tables: Tables) -> list[str]:
    """Shared names of all that a layout holds of a model of this depth."""
    inner: defaultdict[str, set[str]] = defaultdict(set)
    depths = dict.fromkeys(tables.lists, 1)
    for name in tensors:
        blocks, _, rest = name.partition(".")
        index, _, within = rest.partition(".")
        if blocks in depths and index.isdecimal():
            depths[blocks] = max(depths[blocks], 1 + int(index))
            inner[blocks].add(within)
    expected = [name for module in top for name in _parameters(module)]
    for blocks, depth in depths.items():
        has_scale = bool(inner[blocks].intersection(_LAYER_SCALE))
        within = [
            name
            for module in tables.block
            for name in _parameters(module)
            if (name != _QKV_BIAS or name in inner[blocks]) and (name not in _LAYER_SCALE or has_scale)
        ]
        expected += [f"{blocks}.{index}.{name}" for index in range(depth) for name in within]
    return expected


def _parameters(module: str) -> tuple[str, ...]:
    return (module,) if module in (*_LONE, *_LAYER_SCALE) else (f"{module}.weight", f"{module}.bias")


def _written(tensors: Mapping[str, Tensor], expected: list[str], tables: Tables, whose: str) -> dict[str, Tensor]:
    extra = [name for name in tensors if name not in set(expected)]
    missing = [name for name in expected if name not in tensors]
    if extra or missing:
        raise ValueError(
            f"the model's tensors are not those of {whose}: no place for {', '.join(extra) or 'none'}; missing "
            f"{', '.join(missing) or 'none'}; publish it with --format timm"
        )
    written: dict[str, Tensor] = {}
    for name in expected:
        theirs = their_names(name, tables)
        assert theirs is not None
        if len(tensors[name]) % len(theirs):
            raise ValueError(
                f"{name} {list(tensors[name].shape)}: expected as many rows for each of {', '.join(theirs)} of "
                f"{whose}; publish it with --format timm"
            )
        written |= dict(zip(theirs, (part.clone() for part in tensors[name].chunk(len(theirs))), strict=True))
    return written
