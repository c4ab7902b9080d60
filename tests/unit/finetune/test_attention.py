"""The weights shown are those that the model uses."""

import math

import pytest
import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from finetune.attention import attention_weights, class_token_attention, position_similarity
from pretrain.config import EncoderConfig
from pretrain.encoder import create_classifier, create_encoder, initialize_encoder


def _model(size: tuple[int, int] = (8, 12), pool: str | None = None) -> VisionTransformer:
    config = EncoderConfig("vit_tiny_patch16_224", size, (2, 2), width=24, depth=2, heads=3)
    if pool is None:
        model = create_encoder(config)
    else:
        model = create_classifier(config, classes=5, pool="mean" if pool == "mean" else "token", drop_path=0.0)
    initialize_encoder(model, torch.Generator().manual_seed(0))
    return model.eval()


def _tokens() -> torch.Tensor:
    return torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(1)) * 3


@pytest.mark.parametrize("norms", [False, True], ids=["plain", "normalised"])
def test_applied_to_the_values_they_give_the_layers_own_output(norms: bool):
    torch.manual_seed(0)
    attention = Attention(24, num_heads=3, qkv_bias=True, qk_norm=norms, norm_layer=nn.LayerNorm).eval()
    tokens = _tokens()
    with torch.no_grad():
        weights, values = attention_weights(attention, tokens)
        output = attention.proj((weights @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(output, attention(tokens), rtol=1e-5, atol=1e-5)


def test_they_equal_those_of_a_slow_reference():
    torch.manual_seed(0)
    attention = Attention(24, num_heads=3, qkv_bias=True).eval()
    tokens = _tokens()
    weights, _ = attention_weights(attention, tokens)
    qkv = attention.qkv(tokens)
    for image in range(2):
        for head in range(3):
            query = qkv[image, :, head * 8 : head * 8 + 8]
            key = qkv[image, :, 24 + head * 8 : 24 + head * 8 + 8]
            for token in range(7):
                scores = torch.stack([query[token].dot(other) / math.sqrt(8) for other in key]).exp()
                torch.testing.assert_close(weights[image, head, token], scores / scores.sum())


@pytest.mark.parametrize("pool", [None, "mean", "token"])
def test_the_class_tokens_map_is_of_the_last_block(pool: str | None):
    model = _model(pool=pool)
    images = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(2))
    maps = class_token_attention(model, images)
    assert maps.shape == (2, 3, 4, 6)
    with torch.no_grad():
        tokens = model._pos_embed(model.patch_embed(images))
        tokens = model.blocks[1].norm1(model.blocks[0](tokens))
        weights, _ = attention_weights(model.blocks[1].attn, tokens)
    torch.testing.assert_close(maps.flatten(2), weights[:, :, 0, 1:])
    torch.testing.assert_close(maps.sum((2, 3)) + weights[:, :, 0, 0], torch.ones(2, 3))
    assert not model.blocks[1].attn._forward_pre_hooks


def test_a_patch_attended_to_lies_where_it_is_in_the_image():
    """A head whose query and keys single out one bright patch points at its row and column."""
    model = _model()
    attention = model.blocks[-1].attn
    images = torch.zeros(1, 3, 8, 12)
    images[:, :, 2:4, 8:10] = 40.0  # patch in row 1, column 4
    with torch.no_grad():
        tokens = model.blocks[-1].norm1(model.blocks[0](model._pos_embed(model.patch_embed(images))))
        bright = tokens[0, 1 + 1 * 6 + 4] - tokens[0].mean(0)
        attention.qkv.weight.zero_()
        attention.qkv.bias.zero_()
        attention.qkv.bias[0] = 50.0  # the first head's query
        attention.qkv.weight[24] = bright / bright.norm()  # and its key, along that patch
    maps = class_token_attention(model, images)
    assert divmod(int(maps[0, 0].argmax()), 6) == (1, 4)
    torch.testing.assert_close(maps[0, 1], torch.full((4, 6), 1 / 25))


@pytest.mark.parametrize("extra", [0, 1, 2], ids=["patches alone", "class token", "two tokens"])
def test_positions_resemble_themselves_most_and_each_other_equally(extra: int):
    positions = torch.randn(1, extra + 24, 16, generator=torch.Generator().manual_seed(0))
    similarity = position_similarity(positions, (4, 6))
    assert similarity.shape == (4, 6, 4, 6)
    flat = similarity.reshape(24, 24)
    torch.testing.assert_close(flat.diagonal(), torch.ones(24))
    torch.testing.assert_close(flat, flat.T)
    one, other = positions[0, extra + 1 * 6 + 2], positions[0, extra + 3 * 6 + 4]
    torch.testing.assert_close(similarity[1, 2, 3, 4], nn.functional.cosine_similarity(one, other, dim=0))
