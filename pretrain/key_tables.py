"""What others call the tensors of a plain vision transformer, its heads and a masked autoencoder's decoder.

The names that facebook's files and timm share (`blocks.0.attn.qkv.weight`, `decoder_pred.bias`) are the measure. Every
table has them on its left, and is read both ways; Transformers splits attn.qkv in three, whose rows laid end to end are
those of the shared tensor.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Naming = Literal["shared", "transformers"]
Table = Mapping[str, tuple[str, ...]]
"""Shared names, and what another library calls the pieces of each, in order along the first axis."""


@dataclass(frozen=True)
class Tables:
    """Names of modules and lone tensors: outside blocks, of the lists of blocks, and within a block."""

    top: Table
    lists: Mapping[str, str]
    block: Table


def _same(*names: str) -> Table:
    return {name: (name,) for name in names}


_ENCODER = ("cls_token", "pos_embed", "patch_embed.proj", "norm")
_DECODER = ("mask_token", "decoder_pos_embed", "decoder_embed", "decoder_norm", "decoder_pred")
_HEADS = ("fc_norm", "head", "dist_token", "head_dist")
_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")

FACEBOOK = Tables(
    top=_same(*_ENCODER, *_HEADS, *_DECODER),
    lists={"blocks": "blocks", "decoder_blocks": "decoder_blocks"},
    block={**_same(*_BLOCK), "ls1.gamma": ("gamma_1",), "ls2.gamma": ("gamma_2",)},
)
"""MAE's and DeiT's files; the layer scale is DeiT III's."""

_TIMM = Tables(
    top=FACEBOOK.top,
    lists=FACEBOOK.lists,
    # Layer scale and query-key norms: some encoders that timm builds by name have them.
    block=_same(*_BLOCK, "ls1.gamma", "ls2.gamma", "attn.q_norm", "attn.k_norm"),
)

_VIT: Table = {
    "cls_token": ("embeddings.cls_token",),
    "pos_embed": ("embeddings.position_embeddings",),
    "patch_embed.proj": ("embeddings.patch_embeddings.projection",),
    "norm": ("layernorm",),
}
_DEIT: Table = {**_VIT, "dist_token": ("embeddings.distillation_token",)}
_MAE_DECODER: Table = {
    "mask_token": ("decoder.mask_token",),
    "decoder_pos_embed": ("decoder.decoder_pos_embed",),
    "decoder_embed": ("decoder.decoder_embed",),
    "decoder_norm": ("decoder.decoder_norm",),
    "decoder_pred": ("decoder.decoder_pred",),
}
_LAYER: Table = {
    "norm1": ("layernorm_before",),
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attn.proj": ("attention.output.dense",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
}


def _inside(prefix: str, table: Table) -> Table:
    return {ours: tuple(f"{prefix}.{theirs}" for theirs in pieces) for ours, pieces in table.items()}


TRANSFORMERS = {
    "encoder": Tables(_VIT, {"blocks": "encoder.layer"}, _LAYER),
    "classifier": Tables(
        {**_inside("vit", _VIT), "head": ("classifier",)},
        {"blocks": "vit.encoder.layer"},
        _LAYER,
    ),
    "distilled": Tables(
        {**_inside("deit", _DEIT), "head": ("cls_classifier",), "head_dist": ("distillation_classifier",)},
        {"blocks": "deit.encoder.layer"},
        _LAYER,
    ),
    "autoencoder": Tables(
        {**_inside("vit", _VIT), **_MAE_DECODER},
        {"blocks": "vit.encoder.layer", "decoder_blocks": "decoder.decoder_layers"},
        _LAYER,
    ),
}
"""What version 4 writes, and both 4 and 5 read, of ViTModel, ViTForImageClassification,
DeiTForImageClassificationWithTeacher and ViTMAEForPreTraining."""

# Read, never written: all of the above without their prefixes, and the two ways of version 5 to name its blocks.
_ANY_TRANSFORMERS = Tables(
    top={**_DEIT, **_MAE_DECODER, "head": ("classifier",), "head_dist": ("distillation_classifier",)},
    lists={"blocks": "encoder.layer", "decoder_blocks": "decoder.decoder_layers"},
    block=_LAYER,
)
_OTHER_HEAD: Table = {"head": ("cls_classifier",)}
_WRITTEN_BY_5 = Tables({}, {"decoder_blocks": "decoder.decoder_encoder.layer"}, _LAYER)
_IN_MEMORY_OF_5 = Tables(
    top={},
    lists={"blocks": "layers", "decoder_blocks": "decoder.decoder_layers"},
    block={
        "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        "attn.proj": ("attention.o_proj",),
        "norm1": ("layernorm_before",),
        "norm2": ("layernorm_after",),
        "mlp.fc1": ("mlp.fc1",),
        "mlp.fc2": ("mlp.fc2",),
    },
)
READ: Mapping[Naming, tuple[Tables, ...]] = {
    "shared": (_TIMM, FACEBOOK),
    "transformers": (_ANY_TRANSFORMERS, Tables(_OTHER_HEAD, {}, {}), _WRITTEN_BY_5, _IN_MEMORY_OF_5),
}
"""The tables by which names are read, those of Transformers without the prefix of a model inside another."""

LEFT_OUT = {
    "head": "the head of a classifier",
    "fc_norm": "the norm of a classifier's pooled patches",
    "classifier": "the head of a classifier",
    "pooler": "the pooled output of Transformers' ViTModel",
}
"""What of a foreign model has no place in an encoder, by the first part of its name, and what it is."""

FEATURES = {
    "ls1": "layer scale",
    "ls2": "layer scale",
    "lambda1": "layer scale",
    "q_norm": "query-key norms",
    "k_norm": "query-key norms",
    "reg_token": "register tokens",
    "register_tokens": "register tokens",
    "dist_token": "a distillation token",
    "distillation_token": "a distillation token",
    "head_dist": "a distillation token",
    "norm_pre": "a norm before the blocks",
    "rope": "rotary positions",
    "attn_pool": "attention pooling",
    "relative_position_bias_table": "relative positions",
    "w12": "a gated MLP (SwiGLU)",
}
"""What a tensor belongs to that a plain vision transformer lacks, by a part of its name."""


def their_names(name: str, tables: Tables) -> tuple[str, ...] | None:
    """What the pieces of a shared tensor are called in a layout, in order; None where it has no place for it."""
    module, _, kind = name.rpartition(".")
    match = re.fullmatch(r"(\D+)\.(\d+)\.(.+)", name)
    if name in tables.top:
        return tables.top[name]
    if match is None:
        return tuple(f"{theirs}.{kind}" for theirs in tables.top[module]) if module in tables.top else None
    prefix = f"{tables.lists[match[1]]}.{match[2]}" if match[1] in tables.lists else None
    inner, _, kind = match[3].rpartition(".")
    if prefix is None:
        return None
    if match[3] in tables.block:
        return tuple(f"{prefix}.{theirs}" for theirs in tables.block[match[3]])
    return tuple(f"{prefix}.{theirs}.{kind}" for theirs in tables.block[inner]) if inner in tables.block else None


def features_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """What that a plain vision transformer lacks the names tell of, such as layer scale."""
    parts = (part for name in names for part in name.split("."))
    return tuple(dict.fromkeys(FEATURES[part] for part in parts if part in FEATURES))
