"""The optimizers, their parameter groups and their schedule, against their definitions."""

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from pretrain.checkpoint import load_optimizer, load_weights, read_checkpoint, save_checkpoint
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
from pretrain.sharding import whole
from pretrain.snapshot import Snapshot
from pretrain.step import Stepper
from pretrain.world import World

ALGORITHMS = ("adamw", "lamb", "sgd")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


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


def squares(model: nn.Module, values: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return model(values).square().mean(dim=1), {}


def rows(seed: int) -> Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(seed))


def stepper_of(
    algorithm, seed: int = 0, clip_norm: float | None = 0.5
) -> tuple[Stepper, nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, generator=generator)
    optimizer = create_optimizer(model, OptimizerConfig(algorithm=algorithm))
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    world = World("fp32")
    return Stepper(world, model, optimizer, squares, accumulate=1, clip_norm=clip_norm, scale=None), model, optimizer


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def test_sgd_follows_its_definition():
    """Nesterov's momentum as torch has it (Sutskever et al. 2013), weight decay within the gradient."""
    layer = nn.Linear(3, 2, dtype=torch.float64)
    optimizer = create_optimizer(layer, OptimizerConfig(algorithm="sgd", momentum=0.8, weight_decay=0.05))
    expected = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    sums = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    generator = torch.Generator().manual_seed(0)
    for rate in [0.1, 0.2, 0.05]:
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, parameter in layer.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            gradient = parameter.grad + (0.05 * expected[name] if name == "weight" else 0)
            sums[name] = 0.8 * sums[name] + gradient
            expected[name] = expected[name] - rate * (gradient + 0.8 * sums[name])
        optimizer.step()
    torch.testing.assert_close(dict(layer.named_parameters()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_step_does_not_ask_whether_it_may_act(algorithm):
    """What `Stepper` looks at, and so does not wait for a GPU."""
    _, _, optimizer = stepper_of(algorithm)
    assert vars(optimizer)["_step_supports_amp_scaling"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("skipped", [0, 2])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_a_step_that_is_not_finite_is_as_if_it_had_not_been(algorithm, skipped: int, clip_norm: float | None):
    stepper, model, _ = stepper_of(algorithm, clip_norm=clip_norm)
    plain, expected, _ = stepper_of(algorithm, clip_norm=clip_norm)
    for step in range(4):
        if step == skipped:
            before = copy.deepcopy(model.state_dict())
            stepper.step((torch.full((8, 5), torch.nan),))
            assert_equal(model.state_dict(), before)
        stepper.step((rows(step),))
        plain.step((rows(step),))
    assert_equal(model.state_dict(), expected.state_dict())
    assert not torch.equal(next(model.parameters()), next(stepper_of(algorithm)[1].parameters()))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_checkpoint_in_the_middle_goes_on_to_the_bit(algorithm, tmp_path: Path):
    stepper, model, optimizer = stepper_of(algorithm)
    for step in range(3):
        stepper.step((rows(step),))
    snapshot = Snapshot(keeps=True)
    snapshot.take(model, optimizer)
    checkpoint = read_checkpoint(save_checkpoint(tmp_path, snapshot.weights, snapshot.moments, {"step": 3}, None))
    other, its_model, its_optimizer = stepper_of(algorithm, seed=1)
    load_weights(checkpoint, its_model)
    load_optimizer(checkpoint, its_optimizer)
    for step in range(3, 6):
        stepper.step((rows(step),))
        other.step((rows(step),))
    assert_equal(its_model.state_dict(), model.state_dict())
    again = Snapshot(keeps=True)
    again.take(its_model, its_optimizer)
    snapshot.take(model, optimizer)
    assert_equal(again.moments, snapshot.moments)


def test_a_checkpoint_holds_whatever_an_optimizer_remembers():
    kinds = {"adamw": {"step", "exp_avg", "exp_avg_sq"}, "lamb": {"step", "exp_avg", "exp_avg_sq"}}
    for algorithm in ALGORITHMS:
        stepper, model, optimizer = stepper_of(algorithm)
        stepper.step((rows(0),))
        snapshot = Snapshot(keeps=True)
        snapshot.take(model, optimizer)
        expected = kinds.get(algorithm, {"momentum_buffer"})
        names = [name for name, _ in model.named_parameters()]
        assert set(snapshot.moments) == {f"{name}.{kind}" for name in names for kind in expected}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("algorithm", ["lamb", "sgd"])
def test_sharded_parameters_move_alike(algorithm):
    plain, expected, _ = stepper_of(algorithm)
    _, model, _ = stepper_of(algorithm)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    optimizer = create_optimizer(model, OptimizerConfig(algorithm=algorithm))
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    stepper = Stepper(World("fp32"), model, optimizer, squares, accumulate=1, clip_norm=0.5, scale=None)
    for values in (rows(0), torch.full((8, 5), torch.nan), rows(1)):
        stepper.step((values,))
        plain.step((values,))
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(whole(model.state_dict()[name]), tensor)
