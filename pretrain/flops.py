"""FLOPs by formula: the products of matrices that a model needs for one image, a multiplication with its addition as 2.

Norms, activations, softmax and the optimizer are left out, as the field does when it states MFU.
"""

from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from pretrain.masked_autoencoder import MaskedAutoencoder


def autoencoder_flops(model: MaskedAutoencoder) -> int:
    """Forward FLOPs of one image: visible patches embedded, the encoder, the decoder, masked patches predicted.

    The decoder's last block computes masked tokens alone, from all: that is counted so.
    """
    encoder, seen, tokens, masked = model.encoder, 1 + model.visible, 1 + model.patches, model.patches - model.visible
    total = embedding_flops(encoder, model.visible)
    total += sum(block_flops(block, seen) for block in encoder.blocks)
    total += _linear_flops(model.decoder_embed, seen)
    *blocks, last = model.decoder_blocks
    total += sum(block_flops(block, tokens) for block in blocks) + block_flops(last, tokens, masked)
    return total + _linear_flops(model.decoder_pred, masked)


def encoder_flops(model: VisionTransformer) -> int:
    """Forward FLOPs of one whole image, the head included where there is one.

    Raises:
        ValueError: pooling by attention, or other blocks than timm's plain one.
    """
    if model.attn_pool is not None:
        raise ValueError("no formula for the FLOPs of pooling by attention (attn_pool); expected a token or the mean")
    patches = model.patch_embed.num_patches
    tokens = patches + model.num_prefix_tokens
    total = embedding_flops(model, patches) + sum(block_flops(block, tokens) for block in model.blocks)
    return total + (_linear_flops(model.head, 1) if isinstance(model.head, nn.Linear) else 0)


def embedding_flops(encoder: VisionTransformer, patches: int) -> int:
    """Forward FLOPs of embedding so many patches."""
    return 2 * patches * encoder.patch_embed.proj.weight.numel()


def training_flops(forward: int) -> int:
    """Model FLOPs of training (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): forward, and twice that backward.

    What is computed again to save memory is not counted. By this convention the first layer, too, has a gradient of its
    input, which nobody computes: for ViT-B/16 under a mask of .75, .1 % of the whole.
    """
    return 3 * forward


def block_flops(block: nn.Module, tokens: int, asking: int | None = None) -> int:
    """Forward FLOPs of a transformer block for so many tokens, of which all or the last `asking` are wanted.

    Raises:
        ValueError: another block than timm's plain one.
    """
    rows = tokens if asking is None else asking
    layers = sum(_linear_flops(layer, rows) for layer in block.modules() if isinstance(layer, nn.Linear))
    qkv = _attention(block).qkv
    keys_and_values = 2 * (tokens - rows) * qkv.in_features * (qkv.out_features * 2 // 3)
    return layers + keys_and_values + attention_flops(block, tokens, asking)


def attention_flops(block: nn.Module, tokens: int, asking: int | None = None) -> int:
    """Of these the part that is in no layer: queries with keys, and what that weights, the values."""
    attention = _attention(block)
    return 4 * (tokens if asking is None else asking) * tokens * attention.num_heads * attention.head_dim


def _attention(block: nn.Module) -> Attention:
    kind = type(block).__name__
    if isinstance(block, Block):
        attention = block.attn
        if isinstance(attention, Attention):
            return attention
        kind += f" with {type(attention).__name__}"
    raise ValueError(f"no formula for the FLOPs of a {kind}; expected timm's Block with its Attention")


def _linear_flops(layer: nn.Linear, rows: int) -> int:
    return 2 * rows * layer.in_features * layer.out_features
