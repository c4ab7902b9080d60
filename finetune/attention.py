"""What a finished vision transformer looks at: the attention of its last block, and how its positions resemble."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


def attention_weights(
    attention: Attention, tokens: Float[Tensor, "b n d"]
) -> tuple[Float[Tensor, "b heads n n"], Float[Tensor, "b heads n e"]]:
    """softmax(q k^T / sqrt(e)) and v of an attention layer, in fp32; a row holds what one token takes from each.

    timm's own forward does not give the weights: its fused kernel never forms them.
    """
    batch, count, _ = tokens.shape
    qkv = attention.qkv(tokens).float().view(batch, count, 3, attention.num_heads, attention.head_dim)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (b, n, 3, heads, e) -> 3 x (b, heads, n, e)
    scores = attention.q_norm(query) @ attention.k_norm(key).mT * attention.scale
    return scores.softmax(dim=-1), value


@torch.no_grad()
def class_token_attention(
    model: VisionTransformer, images: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b heads rows columns"]:
    """How much of each patch the class token takes in the last block, by head; with its share of itself these sum to 1.

    The images are normalised; the model is on their device, in evaluation mode.
    """
    attention = model.blocks[-1].attn
    assert isinstance(attention, Attention)
    with _inputs_of(attention) as seen:
        model.forward_features(images)
    weights, _ = attention_weights(attention, seen[0])
    return weights[:, :, 0, model.num_prefix_tokens :].unflatten(2, model.patch_embed.grid_size)


def position_similarity(
    positions: Float[Tensor, "1 tokens d"], grid: tuple[int, int]
) -> Float[Tensor, "rows columns rows columns"]:
    """Cosine similarity of the position embedding of every patch (first two axes) to that of every patch, -1 to 1.

    positions: timm's `pos_embed`, that of the class token, if any, before those of the grid's (rows, columns) patches.
    """
    rows, columns = grid
    directions = nn.functional.normalize(positions[0, -rows * columns :].float(), dim=1)  # (n, d)
    return (directions @ directions.T).view(rows, columns, rows, columns)


@contextmanager
def _inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """The first argument of every call of a module while in here."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        yield seen
    finally:
        handle.remove()
