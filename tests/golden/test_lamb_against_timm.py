"""LAMB against timm's, on a small vision transformer with groups that decay and groups that do not."""

import copy

import timm
import torch
from timm.optim.lamb import Lamb as TimmLamb
from torch import nn

from pretrain.config import OptimizerConfig
from pretrain.optimizer import create_optimizer, exempt_parameters, parameter_groups

STEPS = 25


def small() -> nn.Module:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, num_classes=5
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.trunc_normal_(parameter, std=0.2, generator=generator)
    return model


def test_every_step_is_timms():
    """Both are given the same gradients: those of keys' biases are rounding alone, which Adam makes whole steps of."""
    config = OptimizerConfig(algorithm="lamb", betas=(0.9, 0.999))
    model, expected = small(), small()
    optimizer = create_optimizer(model, config, exempt=exempt_parameters(model), layer_decay=0.8)
    groups = parameter_groups(expected, config.weight_decay, exempt=exempt_parameters(expected), layer_decay=0.8)
    assert {group["weight_decay"] for group in groups} == {0.0, 0.05}
    reference = TimmLamb(groups, lr=0.0, betas=config.betas, eps=1e-8, max_grad_norm=None)
    start = copy.deepcopy(model.state_dict())
    for step in range(25):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 3, 16, 16, generator=generator)
        labels = torch.randint(5, (8,), generator=generator)
        nn.functional.cross_entropy(model(images), labels).backward()
        for parameter, other in zip(model.parameters(), expected.parameters(), strict=True):
            assert parameter.grad is not None
            other.grad = parameter.grad.clone()
        for group in (*optimizer.param_groups, *reference.param_groups):
            group["lr"] = 5e-3 * (1 + step % 3) * group["lr_scale"]
        optimizer.step()
        reference.step()
        optimizer.zero_grad()
        for name, tensor in expected.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    assert all(not torch.allclose(model.state_dict()[name], tensor, rtol=1e-2) for name, tensor in start.items())
