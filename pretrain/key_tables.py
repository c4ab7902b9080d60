"""What others call the tensors of a masked autoencoder, or of a plain vision transformer.

Facebook's files and timm share their names; ours are the same, with `encoder.` before those of the encoder.
Transformers has three: what version 4 wrote, what version 5 writes (the same, but for the decoder's blocks) and what
version 5 has in memory. Each splits attn.qkv into its three, of whose rows ours are the concatenation.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Naming = Literal["shared", "transformers"]


class Piece(NamedTuple):
    """A tensor of ours of which a foreign one is piece `index` of `count`, along the first axis."""

    name: str
    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Renamed:
    """Tensors by our names; foreign names that are left out; those not known, or naming what another named already; and
    our names whose pieces are not all there, or not alike."""

    naming: Naming
    tensors: dict[str, Tensor]
    left_out: tuple[str, ...]
    unknown: tuple[str, ...]
    incomplete: tuple[str, ...]


_SHARED = {
    "cls_token": "encoder.cls_token",
    "pos_embed": "encoder.pos_embed",
    "patch_embed.proj": "encoder.patch_embed.proj",
    "norm": "encoder.norm",
    "mask_token": "mask_token",
    "decoder_pos_embed": "decoder_pos_embed",
    "decoder_embed": "decoder_embed",
    "decoder_norm": "decoder_norm",
    "decoder_pred": "decoder_pred",
}
_SHARED_BLOCKS = {"blocks": "encoder.blocks", "decoder_blocks": "decoder_blocks"}
# Layer scale and query-key norms: some encoders that timm builds by name have them.
_SHARED_BLOCK = {
    name: Piece(name)
    for name in (
        *("norm1", "attn.qkv", "attn.q_norm", "attn.k_norm", "attn.proj", "ls1"),
        *("norm2", "mlp.fc1", "mlp.fc2", "ls2"),
    )
}

_TRANSFORMERS = {
    "embeddings.cls_token": "encoder.cls_token",
    "embeddings.position_embeddings": "encoder.pos_embed",
    "embeddings.patch_embeddings.projection": "encoder.patch_embed.proj",
    "layernorm": "encoder.norm",
    "decoder.mask_token": "mask_token",
    "decoder.decoder_pos_embed": "decoder_pos_embed",
    "decoder.decoder_embed": "decoder_embed",
    "decoder.decoder_norm": "decoder_norm",
    "decoder.decoder_pred": "decoder_pred",
}
_TRANSFORMERS_BLOCKS = {
    "encoder.layer": "encoder.blocks",
    "decoder.decoder_layers": "decoder_blocks",
    "decoder.decoder_encoder.layer": "decoder_blocks",
    "layers": "encoder.blocks",
}
_TRANSFORMERS_BLOCK = {
    "layernorm_before": Piece("norm1"),
    "attention.attention.query": Piece("attn.qkv", 0, 3),
    "attention.attention.key": Piece("attn.qkv", 1, 3),
    "attention.attention.value": Piece("attn.qkv", 2, 3),
    "attention.output.dense": Piece("attn.proj"),
    "layernorm_after": Piece("norm2"),
    "intermediate.dense": Piece("mlp.fc1"),
    "output.dense": Piece("mlp.fc2"),
    "attention.q_proj": Piece("attn.qkv", 0, 3),
    "attention.k_proj": Piece("attn.qkv", 1, 3),
    "attention.v_proj": Piece("attn.qkv", 2, 3),
    "attention.o_proj": Piece("attn.proj"),
    "mlp.fc1": Piece("mlp.fc1"),
    "mlp.fc2": Piece("mlp.fc2"),
}

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


def rename(tensors: Mapping[str, Tensor]) -> Renamed | None:
    """The tensors by our names, or None where no name shows whose they are: that of the patch projection does."""
    if "patch_embed.proj.weight" in tensors:
        naming: Naming = "shared"
    elif any(f"{prefix}embeddings.patch_embeddings.projection.weight" in tensors for prefix in ("", "vit.")):
        naming = "transformers"
    else:
        return None
    found: defaultdict[str, dict[int, Tensor]] = defaultdict(dict)
    counts: dict[str, int] = {}
    left_out, unknown = [], []
    for key, tensor in tensors.items():
        piece = _piece(key, naming)
        if piece is not None and piece.index not in found[piece.name]:
            found[piece.name][piece.index] = tensor
            counts[piece.name] = piece.count
        elif piece is None and key.removeprefix("vit.").partition(".")[0] in LEFT_OUT:
            left_out.append(key)
        else:
            unknown.append(key)
    whole = {name: pieces for name, pieces in found.items() if _are_alike(pieces, counts[name])}
    joined = {
        name: pieces[0] if counts[name] == 1 else torch.cat([pieces[index] for index in sorted(pieces)])
        for name, pieces in whole.items()
    }
    incomplete = tuple(name for name in found if name not in whole)
    return Renamed(naming, joined, tuple(left_out), tuple(unknown), incomplete)


def features_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """What that a plain vision transformer lacks the names tell of, such as layer scale."""
    parts = (part for name in names for part in name.split("."))
    return tuple(dict.fromkeys(FEATURES[part] for part in parts if part in FEATURES))


def _piece(key: str, naming: Naming) -> Piece | None:
    if naming == "shared":
        top, blocks, block = _SHARED, _SHARED_BLOCKS, _SHARED_BLOCK
    else:
        key = key.removeprefix("vit.")
        top, blocks, block = _TRANSFORMERS, _TRANSFORMERS_BLOCKS, _TRANSFORMERS_BLOCK
    module, dot, kind = key.rpartition(".")
    if key in top:
        return Piece(top[key])
    if module in top:
        return Piece(f"{top[module]}{dot}{kind}")
    match = re.fullmatch(r"(\D+)\.(\d+)\.(.+)", module)
    if match is None or match[1] not in blocks or match[3] not in block:
        return None
    name, index, count = block[match[3]]
    return Piece(f"{blocks[match[1]]}.{match[2]}.{name}.{kind}", index, count)


def _are_alike(pieces: Mapping[int, Tensor], count: int) -> bool:
    shapes = {piece.shape for piece in pieces.values()}
    return count == 1 or (len(pieces) == count and len(shapes) == 1 and len(shapes.pop()) > 0)
