"""Masked autoencoders: He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022, arXiv:2111.06377.

Shapes: b images, n patches an image of which k are visible and m masked, p values a patch, d the encoder's width and
w the decoder's. Nothing here draws from the global random state.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from pretrain.attention import LastBlock, PackedAttention
from pretrain.config import DecoderConfig, ObjectiveConfig
from pretrain.encoder import Size, allocate, check_supported, initialize_encoder, initialize_layers, sincos_positions
from pretrain.visible_statistics import interpolate_hidden


class Masked(NamedTuple):
    """Patches the encoder sees, in its order; the others; and where each patch stands in the two laid end to end."""

    keep: Int[Tensor, "b k"]
    masked: Int[Tensor, "b m"]
    restore: Int[Tensor, "b n"]


class Output(NamedTuple):
    """Each image's loss, the prediction of the masked patches in the units of the targets, and which those are.

    Gradients come from the losses alone; the prediction is there to be looked at.
    """

    losses: Float[Tensor, " b"]
    prediction: Float[Tensor, "b m p"]
    masked: Int[Tensor, "b m"]

    @property
    def loss(self) -> Float[Tensor, ""]:
        """The mean over the images."""
        return self.losses.mean()


class Reconstruction(NamedTuple):
    """All patches predicted, in the units of the targets; mask, 1 where hidden; images in the units of the input.

    `pasted` is `images` with the visible patches as they were. Where targets are normalised `leaked_statistics` is
    True: each patch's mean and deviation then come from the hidden truth, which a figure must say. Only there are these
    not None: `estimated`, as `pasted` but with hidden patches' means and deviations interpolated from the visible ones,
    so that nothing leaks; and `normalized`, the prediction laid out as images, visible patches by their own statistics.
    """

    prediction: Float[Tensor, "b n p"]
    mask: Float[Tensor, "b n"]
    images: Float[Tensor, "b c h w"]
    pasted: Float[Tensor, "b c h w"]
    leaked_statistics: bool
    estimated: Float[Tensor, "b c h w"] | None
    normalized: Float[Tensor, "b c h w"] | None


class Features(NamedTuple):
    """After the final norm: the mean of the patch tokens, and the class token."""

    mean: Float[Tensor, "b d"]
    class_token: Float[Tensor, "b d"]


def random_mask(noise: Float[Tensor, "b n"], keep: int) -> Masked:
    """Keep the patches of the smallest noise, in its order; of equals the first. ValueError for half precision."""
    # Half precision has so few values that ties, hence the first patches, would be frequent.
    if noise.dtype.itemsize < 4:
        raise ValueError(f"the masking noise is {noise.dtype}, expected float32; do not cast it with the inputs")
    shuffle = noise.argsort(dim=1, stable=True)
    return Masked(shuffle[:, :keep], shuffle[:, keep:], shuffle.argsort(dim=1))


def patchify(images: Float[Tensor, "b c h w"], patch: Size) -> Float[Tensor, "b n p"]:
    """Cut images into (height, width) patches, row by row, values (row, column, channel); ValueError if uneven."""
    (b, c, h, w), (rows, columns) = images.shape, patch
    if h % rows or w % columns:
        raise ValueError(f"images of {h} x {w} pixels cannot be cut into patches of {rows} x {columns}; resize them")
    cells = images.reshape(b, c, h // rows, rows, w // columns, columns)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // rows) * (w // columns), rows * columns * c)


def unpatchify(patches: Float[Tensor, "b n p"], patch: Size, grid: Size) -> Float[Tensor, "b c h w"]:
    """The inverse of `patchify`; grid is the number of patches as (rows, columns)."""
    (rows, columns), b = patch, len(patches)
    cells = patches.reshape(b, *grid, rows, columns, patches.shape[2] // (rows * columns))
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, grid[0] * rows, grid[1] * columns)


class MaskedAutoencoder(nn.Module):
    """An encoder of the visible patches, and a decoder that predicts the hidden ones from its tokens.

    The decoder's parameters stand at the top level under the names of the released checkpoints, the encoder's under
    `encoder.`. Positions are frozen in both. All are NaN until `initialize` or a checkpoint fills them. ValueError if
    the masked forward would differ from the encoder's own, or no patch would be visible.
    """

    def __init__(self, encoder: VisionTransformer, decoder: DecoderConfig, objective: ObjectiveConfig) -> None:
        super().__init__()
        self.encoder = check_supported(encoder, type(encoder).__name__)
        embed, width = encoder.patch_embed, decoder.width
        self.patch_size: Size = embed.patch_size
        self.grid: Size = embed.grid_size
        self.image_shape = (embed.proj.in_channels, *embed.img_size)
        self.patches: int = embed.num_patches
        self.visible = objective.visible_patches(self.patches)
        self.normalize_targets = objective.normalize_targets
        self.mask_token = nn.Parameter(torch.full((1, 1, width), math.nan))
        self.decoder_pos_embed = nn.Parameter(torch.full((1, 1 + self.patches, width), math.nan), requires_grad=False)
        with torch.device("meta"):
            self.decoder_embed = nn.Linear(encoder.embed_dim, width)
            kinds = [Block] * (decoder.depth - 1) + [LastBlock]
            parts: dict[str, Any] = {"qkv_bias": True, "norm_layer": LayerNorm, "attn_layer": PackedAttention}
            self.decoder_blocks = nn.Sequential(*(kind(width, decoder.heads, **parts) for kind in kinds))
            self.decoder_norm = LayerNorm(width, eps=1e-6)
            self.decoder_pred = nn.Linear(width, math.prod(self.patch_size) * self.image_shape[0])
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_norm, self.decoder_pred):
            allocate(part)
        encoder.get_parameter("pos_embed").requires_grad_(False)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Fill every parameter by `initialize_encoder`, and the decoder's alike: mask token N(0, .02)."""
        initialize_encoder(self.encoder, generator)
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_norm, self.decoder_pred):
            initialize_layers(part, generator)
        nn.init.normal_(self.mask_token, std=0.02, generator=generator)
        self.decoder_pos_embed.copy_(sincos_positions(self.grid, self.mask_token.shape[-1])[None])

    def forward(self, images: Float[Tensor, "b c h w"], noise: Float[Tensor, "b n"]) -> Output:
        """The training losses: mean squared error on the masked patches (section 3; normalised targets, Table 1d).

        Images are normalised, noise is uniform, both float32 also under autocast; the patches of the smallest noise are
        visible. ValueError for images or noise of another shape than the encoder's, or noise of half precision.
        """
        patches, order = self._cut(images, noise)
        hidden = self.decode(self.encode(patches, order.keep), order, first=1 + self.visible)  # (b, m, w)
        prediction = self.decoder_pred(self.decoder_norm(hidden))
        targets = _chosen(patches, order.masked)
        if self.normalize_targets:
            mean, deviation = _patch_statistics(targets)
            targets = (targets - mean) / deviation
        losses = (prediction - targets).square().mean(dim=(1, 2))
        return Output(losses, prediction.detach(), order.masked)

    def encode(self, patches: Float[Tensor, "b n p"], keep: Int[Tensor, "b k"]) -> Float[Tensor, "b 1+k d"]:
        """Tokens of the visible patches alone, in the order of keep, the class token first."""
        encoder, projection = self.encoder, self.encoder.patch_embed.proj
        class_token, positions = encoder.get_parameter("cls_token"), encoder.get_parameter("pos_embed")
        weight = projection.weight.permute(0, 2, 3, 1).flatten(1)  # (d, c, h, w) -> (d, p): the order of patchify
        tokens = nn.functional.linear(_chosen(patches, keep), weight, projection.bias)
        tokens = torch.cat((class_token.expand(len(tokens), -1, -1), tokens), dim=1)
        rows = nn.functional.pad(keep + 1, (1, 0))  # (b, k) -> (b, 1 + k): row 0 is the class token's
        tokens = encoder.pos_drop(tokens + positions[0, rows])
        return encoder.norm(encoder.blocks(tokens))

    def decode(self, latent: Float[Tensor, "b seen d"], order: Masked, first: int = 0) -> Float[Tensor, "b asked w"]:
        """Tokens before the decoder's norm from number `first` on: class, visible, masked.

        Attention does not see the order of tokens, only their positions: so none is moved back to its patch's place.
        """
        rows = nn.functional.pad(order.keep + 1, (1, 0))  # (b, k) -> (b, 1 + k): row 0 is the class token's
        visible = self.decoder_embed(latent) + self.decoder_pos_embed[0, rows]
        hidden = self.mask_token + self.decoder_pos_embed[0, order.masked + 1]  # (b, m, w)
        tokens = torch.cat((visible, hidden), dim=1)
        *blocks, last = self.decoder_blocks
        for block in blocks:
            tokens = block(tokens)
        return last(tokens, first=first)

    @torch.no_grad()
    def reconstruct(self, images: Float[Tensor, "b c h w"], noise: Float[Tensor, "b n"]) -> Reconstruction:
        """Predict all patches, for figures; arguments and errors as in `forward`."""
        patches, order = self._cut(images, noise)
        tokens = self.decode(self.encode(patches, order.keep), order)[:, 1:]
        prediction = self.decoder_pred(self.decoder_norm(tokens)).take_along_dim(order.restore[..., None], dim=1)
        hidden = (order.restore >= self.visible)[..., None]  # (b, n, 1)
        pixels = prediction.to(patches.dtype)
        estimated = normalized = None
        if self.normalize_targets:
            mean, deviation = _patch_statistics(patches)
            known = torch.cat((mean, deviation), dim=-1)  # (b, n, 2)
            guess = interpolate_hidden(known, ~hidden[..., 0], self.grid, self.patch_size)
            estimated = self._picture(torch.where(hidden, pixels * guess[..., 1:] + guess[..., :1], patches))
            normalized = self._picture(torch.where(hidden, pixels, (patches - mean) / deviation))
            pixels = pixels * deviation + mean
        full, pasted = self._picture(pixels), self._picture(torch.where(hidden, pixels, patches))
        mask = hidden[..., 0].to(patches.dtype)
        return Reconstruction(prediction, mask, full, pasted, self.normalize_targets, estimated, normalized)

    @torch.no_grad()
    def features(self, images: Float[Tensor, "b c h w"]) -> Features:
        """Frozen features of whole images, by timm's own forward."""
        tokens = self.encoder.forward_features(images)  # (b, 1 + n, d)
        return Features(tokens[:, 1:].mean(dim=1), tokens[:, 0])

    def _picture(self, patches: Float[Tensor, "b n p"]) -> Float[Tensor, "b c h w"]:
        return unpatchify(patches, self.patch_size, self.grid)

    def _cut(self, images: Tensor, noise: Tensor) -> tuple[Float[Tensor, "b n p"], Masked]:
        expected = {"images": (len(images), *self.image_shape), "noise": (len(images), self.patches)}
        got = {"images": tuple(images.shape), "noise": tuple(noise.shape)}
        if got != expected:
            raise ValueError(f"got {got}, expected {expected}; set --encoder.image-size and --encoder.channels so")
        return patchify(images, self.patch_size), random_mask(noise, self.visible)


def _chosen(patches: Float[Tensor, "b n p"], which: Int[Tensor, "b k"]) -> Float[Tensor, "b k p"]:
    # take_along_dim would write the same index p times.
    return patches.gather(1, which[..., None].expand(-1, -1, patches.shape[2]))


def _patch_statistics(patches: Float[Tensor, "b n p"]) -> tuple[Float[Tensor, "b n 1"], Float[Tensor, "b n 1"]]:
    # The unbiased variance and this epsilon are those of the released models.
    return patches.mean(dim=-1, keepdim=True), (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()
