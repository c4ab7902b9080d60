"""AdamW, its parameter groups and its schedule, against their definitions."""

import itertools

import pytest
import torch
from torch import nn

from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig, OptimizerConfig
from pretrain.encoder import create_encoder
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.optimizer import (
    create_optimizer,
    learning_rate,
    parameter_groups,
    peak_learning_rate,
    schedule,
)


def test_parameter_groups_of_vit_b():
    encoder = create_encoder(EncoderConfig("vit_base_patch16_224", (224, 224), (16, 16)))
    model = MaskedAutoencoder(encoder, DecoderConfig(), ObjectiveConfig())
    decay, no_decay = parameter_groups(model, 0.05)
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.05, 0.0)
    linears = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    norms = ("norm1", "norm2")
    blocks = [f"encoder.blocks.{i}" for i in range(12)] + [f"decoder_blocks.{i}" for i in range(8)]
    assert {name for name, _ in no_decay["params"]} == {
        *(f"{block}.{layer}.bias" for block in blocks for layer in linears + norms),
        *(f"{block}.{norm}.weight" for block in blocks for norm in norms),
        *("encoder.norm.weight", "encoder.norm.bias", "encoder.patch_embed.proj.bias"),
        *("decoder_norm.weight", "decoder_norm.bias", "decoder_embed.bias", "decoder_pred.bias"),
    }
    assert {name for name, _ in decay["params"]} == {
        *(f"{block}.{linear}.weight" for block in blocks for linear in linears),
        *("encoder.cls_token", "mask_token"),
        *("encoder.patch_embed.proj.weight", "decoder_embed.weight", "decoder_pred.weight"),
    }


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0.0, 0.0),
        (0.5, 3e-5),
        (20.0, 1.2e-3),
        (40.0, 2.4e-3),
        (230.0, 2.0485281374238571e-3),
        (420.0, 1.2e-3),
        (610.0, 3.5147186257614294e-4),
        (800.0, 0.0),
        (801.0, 0.0),
    ],
)
def test_the_published_schedule_of_800_epochs(epoch, expected):
    config = OptimizerConfig()
    peak = peak_learning_rate(config, 4096)
    assert peak == pytest.approx(2.4e-3)
    assert learning_rate(epoch, config, peak=peak, epochs=800.0) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_adamw_follows_its_definition():
    layer = nn.Linear(3, 2, dtype=torch.float64)
    optimizer = create_optimizer(layer, OptimizerConfig(weight_decay=0.05))
    assert optimizer.defaults["fused"]
    expected = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    first = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    second = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    generator = torch.Generator().manual_seed(0)
    for step, rate in enumerate([1e-3, 2e-3, 5e-4], start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, parameter in layer.named_parameters():
            gradient = parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.95 * second[name] + 0.05 * gradient**2
            move = first[name] / (1 - 0.9**step) / ((second[name] / (1 - 0.95**step)).sqrt() + 1e-8)
            decay = 0.05 if name == "weight" else 0.0
            expected[name] = expected[name] * (1 - rate * decay) - rate * move
        optimizer.step()
    torch.testing.assert_close(dict(layer.named_parameters()), expected, rtol=1e-12, atol=1e-12)


def test_frozen_parameters_and_empty_groups_are_left_out():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    (only,) = parameter_groups(layer, 0.1)
    assert [name for name, _ in only["params"]] == ["weight"]
    assert only["weight_decay"] == 0.1


def test_the_optimizer_knows_its_parameters_by_name_and_waits_for_a_rate():
    layer = nn.Linear(2, 2)
    optimizer = create_optimizer(layer, OptimizerConfig(betas=(0.8, 0.9)))
    assert [group["param_names"] for group in optimizer.param_groups] == [["weight"], ["bias"]]
    assert {group["lr"] for group in optimizer.param_groups} == {0.0}
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}


def test_the_rate_ends_at_its_minimum_and_needs_no_warm_up():
    config = OptimizerConfig(warmup_epochs=0.0, min_lr=1e-5)
    rates = [learning_rate(epoch, config, peak=1e-3, epochs=10.0) for epoch in (0.0, 5.0, 10.0, 12.0)]
    assert rates == pytest.approx([1e-3, (1e-3 + 1e-5) / 2, 1e-5, 1e-5])


def test_the_rate_never_jumps():
    config = OptimizerConfig(warmup_epochs=2.0, min_lr=1e-6)
    rates = [learning_rate(step / 100, config, peak=1.0, epochs=20.0) for step in range(2001)]
    assert max(abs(after - before) for before, after in itertools.pairwise(rates)) < 0.0051
    assert max(rates) == rates[200] == 1.0


def test_a_run_no_longer_than_its_warm_up_is_refused():
    message = r"^--optimizer.warmup-epochs 40 leaves nothing of the run's 10 epochs; pass less, such as 0.5, or train"
    with pytest.raises(ValueError, match=message):
        learning_rate(0.0, OptimizerConfig(), peak=1.0, epochs=10.0)


def test_a_minimum_above_the_peak_is_refused():
    message = (
        r"^--optimizer.min-lr 0.001 is above the peak learning rate 0.00015 \(--optimizer.base-lr 0.00015 x batch 256"
    )
    with pytest.raises(ValueError, match=message):
        peak_learning_rate(OptimizerConfig(min_lr=1e-3), 256)


def test_schedule_is_the_learning_rate_of_a_whole_run():
    config = OptimizerConfig(base_lr=1e-3, warmup_epochs=2.0, min_lr=1e-5)
    rate = schedule(config, 512, 10.0)
    assert rate(2.0) == pytest.approx(2e-3)
    for epoch in (0.0, 1.0, 2.0, 6.5, 10.0):
        assert rate(epoch) == learning_rate(epoch, config, peak=peak_learning_rate(config, 512), epochs=10.0)
