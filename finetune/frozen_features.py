"""What a trained model makes of images, its weights as they are: one or several kinds of features at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pretrain.backbones import restore
from pretrain.model_source import ModelSource
from pretrain.world import World

ROWS = 256
"""Images computed together, whatever a batch holds: another number may round otherwise."""

Asked = Literal["auto", "mean", "token", "pooled"]
_POOLED, _MEAN, _TOKEN = "pooled", "mean", "token"


@dataclass(frozen=True)
class Choice:
    """Features that are looked at by themselves: what they are, in words, and which columns of a row."""

    name: str
    columns: slice


@dataclass(frozen=True)
class FrozenEncoder:
    """Maps images to features, without gradients. Not a module: nothing that holds it trains or saves its weights."""

    source: ModelSource
    model: nn.Module
    """Evaluating, without its head, on the world's device; its own forward gives what the head saw."""
    pieces: tuple[str, ...]
    """What a row holds, side by side: pooled, mean, token, or token-2 for the class token of the last block but one."""
    widths: tuple[int, ...]
    """Numbers of each piece."""
    asked: str
    """The piece that was asked for by itself."""
    world: World

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return self.source.backbone.size

    @property
    def features(self) -> Choice:
        """Those that were asked for."""
        return Choice(self._told(self.asked), self._columns(self.asked, self.asked))

    @property
    def width(self) -> int:
        """d, numbers of an image."""
        return sum(self.widths)

    def choices(self, blocks: Sequence[int]) -> tuple[Choice, ...]:
        """What linear layers are compared on: class tokens of so many last blocks, without and with the mean of the
        last patch tokens. Where the row has no class tokens the features that were asked for.
        """
        if _TOKEN not in self.pieces:
            return (self.features,)
        found = []
        for count in sorted(count for count in blocks if _token(count) in self.pieces):
            name = "class token" if count == 1 else f"class tokens of the last {count} blocks"
            found.append(Choice(name, self._columns(_token(count), _TOKEN)))
            found.append(Choice(f"{name}, mean of patch tokens", self._columns(_token(count), _MEAN)))
        return tuple(found)

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "b h w c"]) -> Float[Tensor, "b d"]:
        """Features in fp32 of images on the device, so many rows at a time that memory does not grow with b."""
        with self.world.autocast():
            parts = [
                torch.cat(compute_pieces(self.model, self.source.normalization.normalize(rows), self.pieces), dim=1)
                for rows in images.split(ROWS)
            ]
        return torch.cat(parts).float()

    def _columns(self, first: str, last: str) -> slice:
        start, end = self.pieces.index(first), self.pieces.index(last)
        return slice(sum(self.widths[:start]), sum(self.widths[: end + 1]))

    def _told(self, piece: str) -> str:
        if piece != _POOLED:
            return {_MEAN: "mean of patch tokens", _TOKEN: "class token"}[piece]
        is_normed = isinstance(self.model, VisionTransformer | Eva) and not isinstance(self.model.fc_norm, nn.Identity)
        if is_normed and self.model.global_pool == "avg":
            return "mean of patch tokens after fc_norm"
        return "pooled features"


def freeze(source: ModelSource, asked: Asked, world: World, *, blocks: Sequence[int] = ()) -> FrozenEncoder:
    """A model with all of its weights, without its head.

    `asked` is the kind of features that are looked at by themselves. `blocks`: a row also holds what `choices` compares
    for these, as far as the model has so many blocks and class tokens.

    Raises:
        ValueError: the weights do not fit, or the model has no such features.
    """
    model: Any = restore(source, headless=True).to(world.device)
    piece = _resolve(model, source, asked)
    pieces: tuple[str, ...] = (piece,)
    deepest = max((count for count in blocks if count <= len(_blocks(model))), default=0)
    if deepest > 0 and _has_class_tokens(model):
        pieces = (*(_token(count) for count in range(deepest, 0, -1)), _MEAN)
        if piece not in pieces:
            pieces = (piece, *pieces)
    # Of a timm model its output alone says how wide it is: heads have layers of their own before the last.
    sample = torch.zeros(1, *source.backbone.size, source.backbone.channels, dtype=torch.uint8, device=world.device)
    with torch.no_grad(), world.autocast():
        found = compute_pieces(model, source.normalization.normalize(sample), pieces)
    for values in found:
        if values.ndim != 2:
            raise ValueError(
                f"--features {asked}: {source.name} gives {' x '.join(map(str, values.shape[1:]))} values an image, "
                "expected one row; write the model again with a global_pool"
            )
    return FrozenEncoder(source, model, pieces, tuple(values.shape[1] for values in found), piece, world)


def compute_pieces(model: nn.Module, pixels: Float[Tensor, "b c h w"], pieces: Sequence[str]) -> list[Tensor]:
    """The pieces of features of normalised images, in their order, each (b, its width)."""
    found = {_POOLED: model(pixels)} if _POOLED in pieces else {}
    tokens = [piece for piece in pieces if piece.startswith(_TOKEN)]
    if tokens or _MEAN in pieces:
        assert isinstance(model, VisionTransformer | Eva)
        layers: Any = model.forward_intermediates(
            pixels,
            indices=max(1, len(tokens)),
            return_prefix_tokens=bool(tokens),
            norm=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        if tokens:
            # (b, p, d), the class token first -> (b, d): of the last block, then of those before it
            found |= {_token(back): prefix[:, 0] for back, (_, prefix) in enumerate(reversed(layers), start=1)}
        last = layers[-1][0] if tokens else layers[-1]
        found[_MEAN] = last.mean(dim=1)  # (b, n, d) -> (b, d)
    return [found[piece] for piece in pieces]


def _token(count: int) -> str:
    """The class token of the last block but count - 1."""
    return _TOKEN if count == 1 else f"{_TOKEN}-{count}"


def _resolve(model: nn.Module, source: ModelSource, asked: Asked) -> str:
    """The piece that is meant. Where two are the same numbers they have one name."""
    if asked == "auto":
        asked = "mean" if source.is_ours and source.classes == 0 and _is_transformer(model) else "pooled"
    if not _is_transformer(model):
        if asked == "pooled":
            return _POOLED
        raise ValueError(
            f"--features {asked}: {source.name} is a {type(model).__name__}, which has no {_words(asked)} of a plain "
            "vision transformer; give --features pooled, what its own head sees"
        )
    assert isinstance(model, VisionTransformer | Eva)
    if asked == "token" and not _has_class_tokens(model):
        if model.cls_token is None:
            raise ValueError(f"--features token: {source.name} has no class token; give --features mean or pooled")
        raise ValueError(
            f"--features token: {source.name} is a classifier by the mean of its patch tokens, without a norm for its "
            "class token; give --features mean, or the encoder that it was fine-tuned from"
        )
    has_own_norm = not isinstance(model.fc_norm, nn.Identity)
    if asked == "mean" and model.global_pool == "avg" and has_own_norm:
        return _POOLED
    # A class derived from these may pool in another way, as that of distilled models does.
    is_itself = type(model) in (VisionTransformer, Eva) and model.global_pool == "token" and not has_own_norm
    return _TOKEN if asked == "pooled" and is_itself and _has_class_tokens(model) else asked


def _words(asked: str) -> str:
    return {"mean": "patch tokens", "token": "class token"}[asked]


def _is_transformer(model: nn.Module) -> bool:
    """Whether it gives patch tokens, as vision transformers of timm do."""
    return isinstance(model, VisionTransformer | Eva)


def _has_class_tokens(model: nn.Module) -> bool:
    """Whether it has a class token, and the norm after the last block that makes it a feature."""
    return (
        isinstance(model, VisionTransformer | Eva)
        and model.cls_token is not None
        and not isinstance(model.norm, nn.Identity)
    )


def _blocks(model: nn.Module) -> Sequence[nn.Module]:
    return list(model.blocks) if isinstance(model, VisionTransformer | Eva) else []
