"""Attention against timm's own, of whose parameters and results it is, and the block that computes its last tokens."""

import pytest
import torch
from timm.layers.attention import Attention
from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import Block

from pretrain.attention import LastBlock, PackedAttention

WIDTH, HEADS = 24, 3


def randomized(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval()


def pair(**settings) -> tuple[Attention, PackedAttention]:
    """timm's and ours with the same weights, by the same names."""
    theirs = randomized(Attention(WIDTH, HEADS, qkv_bias=True, **settings))
    ours = PackedAttention(WIDTH, HEADS, qkv_bias=True, **settings)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours.eval()


def tokens(count: int = 7) -> torch.Tensor:
    return torch.randn(2, count, WIDTH, generator=torch.Generator().manual_seed(1), requires_grad=True)


def gradients(output: torch.Tensor, module: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    return torch.autograd.grad((output * weights).sum(), [x, *module.parameters()])


@pytest.mark.parametrize("settings", [{}, {"qk_norm": True, "scale_norm": True, "norm_layer": LayerNorm}])
def test_results_and_gradients_are_those_of_timm(settings):
    theirs, ours = pair(**settings)
    x = tokens()
    expected, found = theirs(x), ours(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, ours, x), gradients(expected, theirs, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arguments", [{"is_causal": True}, {"attn_mask": torch.eye(7, dtype=torch.bool)}])
def test_masks_are_those_of_timm(arguments):
    theirs, ours = pair()
    x = tokens()
    torch.testing.assert_close(ours(x, **arguments), theirs(x, **arguments))
    assert not torch.allclose(ours(x, **arguments), ours(x))


@pytest.mark.parametrize("first", [1, 4, 6])
@pytest.mark.parametrize("bias", [True, False])
def test_the_last_tokens_take_what_they_would_among_all(first, bias):
    ours = randomized(PackedAttention(WIDTH, HEADS, qkv_bias=bias))
    x = tokens()
    expected, found = ours(x)[:, first:], ours(x, first=first)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, ours, x), gradients(expected, ours, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_rounds_no_more_than_timms(first, dtype):
    theirs, ours = pair()
    x = tokens(200)
    exact = theirs(x)
    with torch.autocast("cpu", dtype):
        found, rounded = ours(x, first=first), theirs(x)
    assert found.dtype == rounded.dtype == dtype
    off, their_off = ((one - exact[:, -one.shape[1] :]).norm() / exact.norm() for one in (found, rounded))
    assert 2**-13 < off < 1.1 * their_off
    assert all(gradient.dtype == torch.float32 for gradient in gradients(found, ours, x))


def test_a_last_block_is_a_block_without_its_first_tokens():
    settings = {"qkv_bias": True, "init_values": 0.5, "attn_layer": PackedAttention}
    plain = randomized(Block(WIDTH, HEADS, **settings))
    last = LastBlock(WIDTH, HEADS, **settings).eval()
    last.load_state_dict(plain.state_dict())
    x = tokens()
    torch.testing.assert_close(last(x), plain(x))
    expected, found = plain(x)[:, 5:], last(x, first=5)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, last, x), gradients(expected, plain, x), rtol=1e-4, atol=1e-5)
