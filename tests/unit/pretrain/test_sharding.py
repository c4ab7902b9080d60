"""Sharded parameters, in a process group of one: what holds a share, what is whole, and ways between the two."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from pretrain.checkpoint import load_optimizer, load_weights, read_checkpoint, save_checkpoint
from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig, OptimizerConfig
from pretrain.encoder import create_encoder
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.optimizer import create_optimizer
from pretrain.sharding import is_sharded, like, own_part, shard_parameters, whole, whole_copy
from pretrain.snapshot import Snapshot
from pretrain.step import Stepper
from pretrain.world import World

CPU = torch.device("cpu")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def small() -> MaskedAutoencoder:
    encoder = create_encoder(
        EncoderConfig("vit_tiny_patch16_224", image_size=(8, 8), patch_size=(2, 2), width=24, depth=2, heads=3)
    )
    model = MaskedAutoencoder(encoder, DecoderConfig(width=16, depth=1, heads=2), ObjectiveConfig())
    model.initialize(torch.Generator().manual_seed(0))
    return model


def sharded() -> MaskedAutoencoder:
    model = small()
    shard_parameters(model, CPU, 1)
    return model


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 8, 8, generator=generator), torch.rand(4, 16, generator=generator)


def losses_of(model: nn.Module, images: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return model(images, noise).losses, {}


def stepper_of(model: nn.Module, accumulate: int = 1) -> tuple[Stepper, torch.optim.Optimizer]:
    optimizer = create_optimizer(model, OptimizerConfig())
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    world = World("fp32")
    shared = world.share_gradients(model)
    return Stepper(world, shared, optimizer, losses_of, accumulate=accumulate, clip_norm=None, scale=None), optimizer


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(whole(tensor), whole(expected[name])), name


@pytest.mark.usefixtures("alone")
def test_every_parameter_is_shared_out_and_every_block_is_gathered_by_itself():
    model = small()
    before = copy.deepcopy(model.state_dict())
    assert not is_sharded(model)
    shard_parameters(model, CPU, 1)
    assert is_sharded(model)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    assert_equal(model.state_dict(), before)
    units = [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]
    assert units == ["", "encoder.blocks.0", "encoder.blocks.1", "decoder_blocks.0"]


@pytest.mark.usefixtures("alone")
def test_whole_and_own_parts():
    share = sharded().mask_token.detach()
    assert isinstance(share, DTensor)
    for one in (whole(share), own_part(share)):
        assert not isinstance(one, DTensor)
        assert torch.equal(one, small().mask_token)
    plain = torch.ones(3)
    assert whole(plain) is plain
    assert own_part(plain) is plain
    assert like(plain, plain) is plain
    again = like(torch.ones_like(small().mask_token), share)
    assert isinstance(again, DTensor)
    assert (again.device_mesh, again.placements) == (share.device_mesh, share.placements)
    assert torch.equal(whole(again), torch.ones_like(small().mask_token))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("accumulate", [1, 3])
def test_steps_are_those_of_the_model_in_one_piece(accumulate: int):
    model, expected = sharded(), small()
    (stepper, optimizer), (plain, plain_optimizer) = stepper_of(model, accumulate), stepper_of(expected, accumulate)
    for number in range(3):
        images, noise = batch()
        found, wanted = (one.step((images + number, noise)) for one in (stepper, plain))
        assert torch.equal(found.losses, wanted.losses)
        torch.testing.assert_close(found.norms, wanted.norms)
        assert found.norms.shape == (len(stepper.names),)
        assert not isinstance(found.norm, DTensor)
    assert stepper.names == plain.names
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(whole(parameter), expected.get_parameter(name), rtol=0, atol=1e-7)
    moments = optimizer.state[model.mask_token]["exp_avg"]
    assert isinstance(moments, DTensor)
    torch.testing.assert_close(whole(moments), plain_optimizer.state[expected.mask_token]["exp_avg"])


@pytest.mark.usefixtures("alone")
def test_a_step_that_is_not_finite_changes_nothing():
    model = sharded()
    stepper, _ = stepper_of(model)
    stepper.step(batch())
    before = {name: whole(tensor).clone() for name, tensor in model.state_dict().items()}
    images, noise = batch()
    images[1, 0, 0, 0] = float("nan")
    assert not stepper.step((images, noise)).norm.isfinite()
    assert_equal(model.state_dict(), before)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("first", [small, sharded])
@pytest.mark.parametrize("second", [small, sharded])
def test_a_checkpoint_is_the_same_with_and_without(tmp_path: Path, first, second):
    model = first()
    stepper, optimizer = stepper_of(model)
    stepper.step(batch())
    snapshot = Snapshot(keeps=True)
    snapshot.take(model, optimizer)
    assert {type(tensor) for tensor in (*snapshot.weights.values(), *snapshot.moments.values())} == {Tensor}
    path = save_checkpoint(tmp_path, snapshot.weights, snapshot.moments, {"step": 1}, None)
    other = second()
    _, other_optimizer = stepper_of(other)
    load_weights(read_checkpoint(path), other)
    load_optimizer(read_checkpoint(path), other_optimizer)
    assert is_sharded(other) == (second is sharded)
    again = Snapshot(keeps=True)
    again.take(other, other_optimizer)
    assert_equal(again.weights, snapshot.weights)
    assert_equal(again.moments, snapshot.moments)


@pytest.mark.usefixtures("alone")
def test_running_statistics_that_nobody_would_share_are_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    shard_parameters(model, CPU, 1)
    world = World("fp32")
    assert world.share_gradients(model) is model
    world.size = 2
    with pytest.raises(ValueError, match=r"--shard-parameters: .* \(1\.running_mean and the like\).* leave it out"):
        world.share_gradients(model)
    assert world.share_gradients(sharded()) is not None


@pytest.mark.usefixtures("alone")
def test_a_process_that_keeps_no_copy_helps_to_gather():
    model = sharded()
    snapshot = Snapshot(keeps=False)
    snapshot.take(model, stepper_of(model)[1])
    assert (snapshot.weights, snapshot.moments) == ({}, {})


@pytest.mark.usefixtures("alone")
def test_a_whole_copy_has_the_weights_and_can_be_used_as_it_is():
    model = sharded()
    stepper, _ = stepper_of(model)
    stepper.step(batch())
    twin = small()
    assert whole_copy(model, twin) is twin
    assert not is_sharded(twin)
    assert_equal(twin.state_dict(), model.state_dict())
    assert twin.features(batch()[0]).mean.isfinite().all()
