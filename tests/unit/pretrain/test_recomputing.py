"""Gradient checkpointing: the same bits in less memory."""

import copy

import pytest
import torch
from torch import nn

from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig
from pretrain.encoder import create_encoder
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.recomputing import recompute_blocks


def small() -> MaskedAutoencoder:
    encoder = create_encoder(EncoderConfig("vit_tiny_patch16_224", (16, 16), (4, 4), width=24, depth=3, heads=3))
    model = MaskedAutoencoder(encoder, DecoderConfig(width=16, depth=2, heads=2), ObjectiveConfig())
    model.initialize(torch.Generator().manual_seed(0))
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 3, 16, 16, generator=generator), torch.rand(8, 16, generator=generator)


def run(model: nn.Module, *, precision: torch.dtype | None = None) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """Losses, gradients, and the bytes that forward keeps for backward beside the parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", dtype=precision or torch.bfloat16, enabled=precision is not None):
            losses = model(*batch()).losses
        bytes_kept = sum(kept.values())
        losses.mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return losses.detach(), gradients, bytes_kept


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_the_same_bits_in_less_memory(precision: torch.dtype | None):
    plain = small()
    recomputed = copy.deepcopy(plain)
    recompute_blocks(recomputed)
    expected, found = run(plain, precision=precision), run(recomputed, precision=precision)
    assert torch.equal(found[0], expected[0])
    assert found[1].keys() == expected[1].keys()
    assert len(found[1]) == sum(parameter.requires_grad for parameter in plain.parameters())
    for name, gradient in found[1].items():
        assert torch.equal(gradient, expected[1][name]), name
    print(f"kept for backward: {found[2]:,} bytes instead of {expected[2]:,}")
    assert found[2] < expected[2] / 3


def test_only_forward_changes():
    plain = small()
    names = list(plain.state_dict())
    model = copy.deepcopy(plain)
    recompute_blocks(model)
    assert list(model.state_dict()) == names
    images, noise = batch()
    assert torch.equal(model.features(images).mean, plain.features(images).mean)
    assert torch.equal(model.reconstruct(images, noise).prediction, plain.reconstruct(images, noise).prediction)
