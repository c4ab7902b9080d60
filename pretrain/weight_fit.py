"""Whether weights that others have made fit a model of ours and, where they do not, the options that would."""

import re
from collections.abc import Mapping

from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor

from pretrain.key_tables import features_of
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.stated_config import Stated
from pretrain.weight_files import some

POSITIONS = {"encoder": "encoder.pos_embed", "decoder": "decoder_pos_embed"}
"""The names of the position tensors."""


def check_fit(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], stated: Stated, model: MaskedAutoencoder, said: str
) -> None:
    """Raise ValueError, beginning with `said`, unless names, shapes and the heads stated are those expected.

    `expected` are those of the model's tensors that are to be filled. How many positions there are does not matter.
    """
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    shapes = [
        f"{name} {list(tensors[name].shape)} instead of {list(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if _shape(name, tensors[name]) != _shape(name, expected[name])
    ]
    theirs, ours = _sizes(tensors), _sizes(expected)
    has_decoder = "mask_token" in expected
    theirs |= {"encoder.heads": stated.heads, "decoder.heads": stated.decoder_heads if has_decoder else None}
    ours |= heads_of(model)
    differing = [name for name, size in theirs.items() if size is not None and size != ours.get(name, size)]
    if not (missing or extra or shapes or differing):
        return
    heads = "".join(f"; {n} {theirs[n]} instead of {ours[n]}" for n in differing if n.endswith("heads"))
    raise ValueError(
        f"{said} does not fit the model: missing {some(missing)}; not expected {some(extra)}; "
        f"of another shape {some(shapes)}{heads}; {_way_out(differing, theirs, features_of((*extra, *missing)))}"
    )


def _way_out(differing: list[str], theirs: Mapping[str, int | str | None], features: tuple[str, ...]) -> str:
    fixes = []
    if differing:
        fixes.append("pass " + " ".join(f"--{name} {theirs[name]}" for name in differing))
    unsaid = [part for part in ("encoder", "decoder") if f"{part}.width" in differing and not theirs[f"{part}.heads"]]
    fixes += [f"and the --{part}.heads that they were trained with, which they do not say" for part in unsaid]
    if features:
        fixes.append(f"choose an --encoder.name like that of the weights: they differ in {', '.join(features)}")
    return "; ".join(fixes) or "choose an --encoder.name, or other weights, so that they fit"


def _shape(name: str, tensor: Tensor) -> tuple[int, ...]:
    """Without the number of positions, which may differ."""
    is_positions = name in POSITIONS.values() and tensor.dim() == 3
    return (*tensor.shape[:1], *tensor.shape[2:]) if is_positions else tuple(tensor.shape)


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int | str | None]:
    """Sizes by the option that sets them, as far as the tensors show them."""
    sizes: dict[str, int | str | None] = {}
    projection, embed = tensors.get("encoder.patch_embed.proj.weight"), tensors.get("decoder_embed.weight")
    if projection is not None and projection.dim() == 4:
        width, channels, *patch = projection.shape
        sizes |= {"encoder.width": width, "encoder.channels": channels}
        sizes["encoder.patch-size"] = " ".join(map(str, patch))
    if embed is not None and embed.dim() == 2:
        sizes["decoder.width"] = embed.shape[0]
    for option, blocks in (("encoder.depth", r"encoder\.blocks"), ("decoder.depth", "decoder_blocks")):
        found = [int(match[1]) for name in tensors if (match := re.match(rf"{blocks}\.(\d+)\.", name))]
        sizes |= {option: 1 + max(found)} if found else {}
    return sizes


def heads_of(model: MaskedAutoencoder) -> dict[str, int]:
    """Attention heads of a block, by the option that sets them."""
    heads = {}
    for part, blocks in (("encoder", model.encoder.blocks), ("decoder", model.decoder_blocks)):
        block = blocks[0]
        assert isinstance(block, Block)
        assert isinstance(block.attn, Attention)
        heads[f"{part}.heads"] = block.attn.num_heads
    return heads
