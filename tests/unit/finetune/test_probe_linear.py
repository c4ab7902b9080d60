"""The linear layer that LARS trains: its batch norm is torch's, its steps are the released formula's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from finetune.linear_layer import LinearLayer, create_lars
from finetune.probe_config import LarsConfig
from pretrain.checkpoint import load_optimizer, load_weights, read_checkpoint, save_checkpoint
from pretrain.snapshot import optimizer_tensors


def build(width: int = 6, classes: int = 3, seed: int = 0) -> LinearLayer:
    return LinearLayer(width, classes, std=0.01, generator=torch.Generator().manual_seed(seed))


def features(seed: int, rows: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(rows, 6, generator=generator)


def alone(items: list[Any]) -> list[Any]:
    return items


def step(model: LinearLayer, optimizer: torch.optim.Optimizer, seed: int, rate: float) -> None:
    values, labels = features(seed), torch.arange(40) % 3
    for group in optimizer.param_groups:
        group["lr"] = rate
    nn.functional.cross_entropy(model(model.standardize(values, alone)), labels).backward()
    optimizer.step()


def test_it_starts_small_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    model = build(500, 400)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert torch.equal(model.head.bias, torch.zeros(400))
    assert model.state_dict().keys() == {"mean", "variance", "head.weight", "head.bias"}


def test_it_standardises_as_a_batch_norm_without_parameters():
    model, reference = build(), nn.BatchNorm1d(6, eps=1e-6, affine=False)
    for seed in range(5):
        torch.testing.assert_close(model.standardize(features(seed), alone), reference(features(seed)))
    torch.testing.assert_close(model.mean, reference.running_mean)
    torch.testing.assert_close(model.variance, reference.running_var)
    reference.eval()
    torch.testing.assert_close(model.predict(features(9)), model.head(reference(features(9))))


def test_processes_standardise_by_the_whole_batch():
    whole, values = build(), features(0)
    expected = whole.standardize(values, alone)
    sums: list[torch.Tensor] = []
    for part in values.split(20):
        build().standardize(part, lambda items: sums.extend(items) or items)
    ranks = [build(), build()]
    shares = [rank.standardize(part, lambda _: sums) for rank, part in zip(ranks, values.split(20), strict=True)]
    torch.testing.assert_close(torch.cat(shares), expected)
    torch.testing.assert_close(ranks[0].state_dict(), whole.state_dict())
    for name, tensor in ranks[0].state_dict().items():
        assert torch.equal(tensor, ranks[1].state_dict()[name]), name


def test_a_feature_without_variance_gives_no_nan():
    values = features(0)
    values[:, 2] = 1e4
    model = build()
    assert torch.equal(model.standardize(values, alone)[:, 2], torch.zeros(40))
    assert torch.isfinite(model.predict(values)).all()


def test_two_steps_are_the_released_formula():
    """He et al. 2022 as released: weights move by trust x their norm / the gradient's, biases by the gradient."""
    model = build()
    optimizer = create_lars(model, LarsConfig(momentum=0.9, trust=0.02))
    momenta = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for seed, rate in ((1, 0.5), (2, 3.0)):
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        model.zero_grad()
        step(model, optimizer, seed, rate)
        for name, parameter in model.named_parameters():
            update = parameter.grad
            assert update is not None
            if name == "head.weight":
                update = update * (0.02 * before[name].norm() / update.norm())
            momenta[name] = 0.9 * momenta[name] + update
            torch.testing.assert_close(parameter.detach(), before[name] - rate * momenta[name], rtol=1e-6, atol=1e-8)
        assert not torch.equal(model.head.bias, torch.zeros(3))


def test_weights_of_zero_move_by_their_gradient():
    model = build()
    nn.init.zeros_(model.head.weight)
    step(model, create_lars(model, LarsConfig()), 1, 0.1)
    assert model.head.weight.grad is not None
    torch.testing.assert_close(model.head.weight.detach(), -0.1 * model.head.weight.grad)


def test_what_a_checkpoint_holds_trains_on_alike(tmp_path: Path):
    model = build()
    optimizer = create_lars(model, LarsConfig())
    step(model, optimizer, 1, 2.0)
    checkpoint = read_checkpoint(
        save_checkpoint(tmp_path, model.state_dict(), optimizer_tensors(optimizer), {"step": 1}, None)
    )
    other = build(seed=5)
    other_optimizer = create_lars(other, LarsConfig())
    load_weights(checkpoint, other)
    load_optimizer(checkpoint, other_optimizer)
    for some, its_optimizer in ((model, optimizer), (other, other_optimizer)):
        some.zero_grad()
        step(some, its_optimizer, 2, 2.0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
