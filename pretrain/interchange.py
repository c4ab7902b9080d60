"""Masked autoencoding goes on from weights that others have made: facebook's, timm's or Transformers'.

Weights of a vision transformer that was trained otherwise serve as an encoder alone. All names and shapes must match.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from launch.redaction import redact
from pretrain.key_tables import LEFT_OUT
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.position_transfer import METHODS, Transferred, transfer_positions
from pretrain.positions import Interpolation
from pretrain.renaming import Layout, bare, layout_of, read_renamed, unlike_plain
from pretrain.stated_config import NORM_EPSILON, Size, Stated, stated_by
from pretrain.weight_files import some
from pretrain.weight_fit import POSITIONS, check_fit, heads_of

_ENCODER = "encoder."
_OF_ENCODER = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")
_OF_DECODER = ("mask_token", "decoder_")
_FINAL_NORM = ("encoder.norm.weight", "encoder.norm.bias")


@dataclass(frozen=True)
class Weights:
    """Tensors by the names of MaskedAutoencoder (`encoder.blocks.0.attn.qkv.weight`, `mask_token`), float32 on the CPU.

    `where` is as the user gave it, without credentials; `left_out` names, as the file does, what has no place in a
    masked autoencoder; `rounded` the other number formats that the file had.
    """

    where: str
    layout: Layout
    tensors: dict[str, Tensor]
    left_out: tuple[str, ...] = ()
    stated: Stated = field(default_factory=Stated)
    rounded: tuple[str, ...] = ()

    @property
    def has_decoder(self) -> bool:
        """Whether there is more than an encoder; a mask token alone is not a decoder."""
        return any(name.startswith("decoder_") for name in self.tensors)


def read_weights(where: str, option: str) -> Weights:
    """Read a file, a folder or `hf://user/name[@revision]`; whose layout it is its names say.

    Raises:
        ValueError: nothing there, not readable, another kind of model; the message begins with `option`.
    """
    file, renamed = read_renamed(where, option)
    said, layout = f"{option} {redact(where)}", layout_of(file, renamed)
    tensors: dict[str, Tensor] = {}
    heads, others = [], []
    for name, tensor in renamed.tensors.items():
        if name.startswith(_OF_ENCODER):
            tensors[f"{_ENCODER}{name}"] = tensor
        elif name.startswith(_OF_DECODER):
            tensors[name] = tensor
        else:
            (heads if name.partition(".")[0] in LEFT_OUT else others).extend(renamed.sources[name])
    if others:
        raise ValueError(unlike_plain(said, layout, tuple(others)))
    stated = stated_by(file.config)
    if stated.activation not in (None, "gelu"):
        raise ValueError(
            f"{said}: its blocks have the activation {stated.activation}, expected gelu; give other weights"
        )
    return Weights(redact(where), layout, tensors, (*heads, *renamed.left_out), stated, file.rounded)


def start_from(model: MaskedAutoencoder, weights: Weights, *, new_decoder: bool, option: str) -> list[str]:
    """Load the weights into a model that has been initialised; with `new_decoder` its decoder stays as it is.

    Positions for another grid of patches are interpolated. Returns what to tell the user, a sentence each.

    Raises:
        ValueError: an encoder alone without `new_decoder`, or names, shapes or heads that differ from the model's; the
            message begins with `option` and ends with the options that fit. The model is then as it was.
    """
    said = f"{option} {weights.where}"
    if not weights.has_decoder and not new_decoder:
        raise ValueError(
            f"{said}: holds an encoder only: masked autoencoding needs a decoder (of the released files "
            "mae_pretrain_vit_* leave it out, mae_visualize_vit_* have it); pass --new-decoder to begin a new one, or "
            "give weights with both"
        )
    fresh = model.state_dict()
    tensors = {n: t for n, t in weights.tensors.items() if n.startswith(_ENCODER) or not new_decoder}
    kept = [n for n in fresh if new_decoder and not n.startswith(_ENCODER)]
    # A classifier that pools patches has no norm after its blocks, but its fc_norm after pooling: another thing.
    without_norm = not any(n in tensors for n in _FINAL_NORM) and any(n.startswith("fc_norm") for n in weights.left_out)
    kept += _FINAL_NORM if without_norm else ()
    expected = {n: t for n, t in fresh.items() if n not in kept}
    check_fit(tensors, expected, weights.stated, model, said)
    moved = _transfer_all(tensors, weights, model, said)
    tensors |= {POSITIONS[part]: one.positions for part, one in moved.items()}
    model.load_state_dict({**fresh, **tensors})
    return [
        f"starting with the weights of {weights.where}: {'encoder' if new_decoder else 'encoder and decoder'}, "
        f"{len(tensors)} tensors, in the layout of {weights.layout}",
        *_about_what_is_new(weights, new_decoder=new_decoder, without_norm=without_norm),
        *_about_positions(moved, model.grid, _mode(weights)),
        *_about_what_is_not_said(weights, model, new_decoder=new_decoder),
    ]


def _mode(weights: Weights) -> Interpolation:
    return "timm" if weights.layout == "timm" else "facebook"  # Transformers does it as facebook


def _transfer_all(
    tensors: Mapping[str, Tensor], weights: Weights, model: MaskedAutoencoder, said: str
) -> dict[str, Transferred]:
    stated: Size | None = None
    if weights.stated.image_size is not None:
        rows, columns = weights.stated.image_size
        stated = rows // model.patch_size[0], columns // model.patch_size[1]
    moved = {}
    for part, name in POSITIONS.items():
        if name in tensors:
            try:
                moved[part] = transfer_positions(tensors[name], model.grid, _mode(weights), stated)
            except ValueError as error:
                fix = "; give other weights" + (", or pass --new-decoder" if part == "decoder" else "")
                raise ValueError(f"{said}: {name} {error}{fix}") from error
    return moved


def _about_what_is_new(weights: Weights, *, new_decoder: bool, without_norm: bool) -> list[str]:
    told = []
    if weights.rounded:
        told.append(f"its numbers were {' and '.join(weights.rounded)}, and are float32 now")
    reasons: dict[str, list[str]] = {}
    for name in weights.left_out:
        reasons.setdefault(LEFT_OUT[bare(name).partition(".")[0]], []).append(name)
    if weights.stated.norm_epsilon not in (None, NORM_EPSILON):
        told.append(
            f"its norms add {weights.stated.norm_epsilon:g} to the variance, here it is {NORM_EPSILON:g}: what the "
            "model computes is a little different"
        )
    told += [f"left out of it: {some(names)}: {reason}" for reason, names in reasons.items()]
    if without_norm:
        told.append("the encoder's final norm begins anew: the weights have one after pooling instead")
    if new_decoder:
        others = [name for name in weights.tensors if not name.startswith(_ENCODER)]
        why = f"of the weights {some(others)} are left out" if others else "the weights have none"
        told.append(f"the decoder begins anew (--new-decoder): {why}")
    return told


def _about_positions(moved: Mapping[str, Transferred], grid: Size, mode: Interpolation) -> list[str]:
    told = []
    for part, one in moved.items():
        if one.grid != grid:
            told.append(
                f"positions of the {part} interpolated from {one.grid[0]} x {one.grid[1]} to {grid[0]} x {grid[1]} "
                f"patches, {METHODS[mode]}"
            )
        if not one.is_sincos:
            told.append(
                f"positions of the {part} are not a sine-cosine table (they were learned, or interpolated before): "
                "they are kept, and stay frozen as all positions here"
            )
    return told


def _about_what_is_not_said(weights: Weights, model: MaskedAutoencoder, *, new_decoder: bool) -> list[str]:
    stated, heads, told = weights.stated, heads_of(model), []
    known = {"encoder.heads": stated.heads, "decoder.heads": 0 if new_decoder else stated.decoder_heads}
    taken = [f"--{name} {heads[name]}" for name, number in known.items() if number is None]
    if taken:
        told.append(f"the weights do not say how many heads their blocks have: taken as {' and '.join(taken)}")
    if new_decoder:
        return told
    here = _flag(normalizes=model.normalize_targets)
    if stated.normalize_targets is None:
        told.append(f"the weights do not say whether their targets were normalised: taken as {here}")
    elif stated.normalize_targets != model.normalize_targets:
        there = _flag(normalizes=stated.normalize_targets)
        told.append(f"the decoder was trained with {there}, here it is {here}: the loss begins high")
    return told


def _flag(*, normalizes: bool) -> str:
    return f"--objective.{'' if normalizes else 'no-'}normalize-targets"
