"""The average of the weights: the formula, steps that were skipped, and its place in the model."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from pretrain.averaging import Average
from pretrain.checkpoint import load_average, load_weights, read_checkpoint, save_checkpoint
from pretrain.config import OptimizerConfig
from pretrain.encoder import EncoderConfig, create_encoder
from pretrain.optimizer import create_optimizer
from pretrain.sharding import shard_parameters, whole
from pretrain.snapshot import Snapshot

YES, NO = torch.tensor(True), torch.tensor(False)


def build() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    move(model, generator)
    return model


@torch.no_grad()
def move(model: nn.Module, generator: torch.Generator) -> None:
    """Other weights and statistics, as a step would leave them."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        else:
            tensor.add_(1)


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("warm_up", [False, True])
def test_it_is_the_formula_in_double_precision(warm_up: bool):
    model, generator = build(), torch.Generator().manual_seed(1)
    average = Average(model, 0.7, warm_up=warm_up)
    expected = {name: tensor.double() for name, tensor in copied(model.state_dict()).items()}
    count = 0
    for number in range(30):
        applied = number % 5 != 3
        if applied:
            move(model, generator)
            decay = min(0.7, (1 + count) / (10 + count)) if warm_up else 0.7
            count += 1
            for name, tensor in model.state_dict().items():
                mixed = decay * expected[name] + (1 - decay) * tensor.double()
                expected[name] = mixed if tensor.is_floating_point() else tensor.double()
        average.update(YES if applied else NO)
    assert average.state() == {"updates": 24}
    for name, tensor in average.tensors.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert average.tensors["1.num_batches_tracked"] == 25


def test_it_is_timms():
    model, generator = build(), torch.Generator().manual_seed(1)
    average, reference = Average(model, 0.99), ModelEmaV3(model, decay=0.99)
    for _ in range(20):
        move(model, generator)
        average.update(YES)
        reference.update(model)
    assert_equal(dict(average.tensors), dict(reference.module.state_dict()))


def test_a_step_that_was_not_applied_leaves_it_as_it_was():
    model = build()
    average = Average(model, 0.9, warm_up=True)
    before = copied(dict(average.tensors))
    move(model, torch.Generator().manual_seed(1))
    model.get_buffer("1.num_batches_tracked").zero_()  # integers follow the model, which a skipped step leaves alone
    before["1.num_batches_tracked"].zero_()
    average.update(NO)
    assert_equal(dict(average.tensors), before)
    assert average.state() == {"updates": 0}


def test_it_stands_in_the_model_and_leaves_it_to_the_bit():
    model, generator = build(), torch.Generator().manual_seed(1)
    average = Average(model, 0.9)
    move(model, generator)
    average.update(YES)
    weights, averaged = copied(model.state_dict()), copied(dict(average.tensors))
    held = list(model.parameters())

    def use() -> None:
        with average.in_place(model):
            assert_equal(model.state_dict(), averaged)
            assert all(one is other for one, other in zip(held, model.parameters(), strict=True))
            for misuse in (lambda: average.update(YES), lambda: average.tensors, lambda: average.buffers):
                with pytest.raises(AssertionError, match="the average stands in the model"):
                    misuse()
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        use()
    assert_equal(model.state_dict(), weights)
    assert_equal(dict(average.tensors), averaged)


def test_a_tensor_with_two_names_is_averaged_and_exchanged_once():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    average = Average(model, 0.75)
    with torch.no_grad():
        start = first.weight.clone()
        first.weight += 1
    average.update(YES)
    torch.testing.assert_close(average.tensors["1.weight"], start + 0.25)
    with average.in_place(model):
        torch.testing.assert_close(second.weight.detach(), start + 0.25)
    torch.testing.assert_close(second.weight.detach(), start + 1)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_outside_its_range(decay: float):
    with pytest.raises(ValueError, match=r"the decay of the weights' average is .*, expected 0 <= decay < 1"):
        Average(build(), decay)


def write(folder: Path, model: nn.Module, average: Average | None) -> Path:
    snapshot = Snapshot(keeps=True)
    snapshot.take(model, create_optimizer(model, OptimizerConfig()), average)
    state = {"step": 1} if average is None else {"step": 1, "average": average.state()}
    saved = None if average is None else snapshot.average
    return save_checkpoint(folder, snapshot.weights, snapshot.moments, state, None, average=saved)


def test_it_comes_back_from_a_checkpoint_to_the_bit(tmp_path: Path):
    model, generator = build(), torch.Generator().manual_seed(1)
    average = Average(model, 0.9, warm_up=True)
    move(model, generator)
    average.update(YES)
    checkpoint = read_checkpoint(write(tmp_path, model, average))
    assert checkpoint.has_average
    other = build()
    again = Average(other, 0.9, warm_up=True)
    load_weights(checkpoint, other)
    load_average(checkpoint, again)
    move(model, generator)
    other.load_state_dict(model.state_dict())
    for one in (average, again):
        one.update(YES)
    assert_equal(dict(again.tensors), dict(average.tensors))
    assert again.state() == {"updates": 2}
    published = build()
    load_weights(checkpoint, published, averaged=True)
    with again.in_place(other):
        assert not torch.equal(published.get_parameter("0.weight"), other.get_parameter("0.weight"))
    load_average(checkpoint, again)
    assert_equal(dict(published.state_dict()), dict(again.tensors))


def test_a_checkpoint_without_it_or_of_another_model_says_what_to_do(tmp_path: Path):
    model = build()
    checkpoint = read_checkpoint(write(tmp_path, model, None))
    assert not checkpoint.has_average
    assert not (checkpoint.path / "average.safetensors").exists()
    with pytest.raises(ValueError, match=r"step-00000001 holds no average .* go on without one, or begin a new run"):
        load_average(checkpoint, Average(model, 0.9))
    wider = read_checkpoint(write(tmp_path, model, Average(model, 0.9)))
    with pytest.raises(ValueError, match=r"average\.safetensors does not fit the model: missing weight; not expected"):
        load_average(wider, Average(nn.Linear(3, 4, bias=False), 0.9))


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_damage_to_it_is_found(tmp_path: Path, damage: str):
    model = build()
    path = write(tmp_path, model, Average(model, 0.9)) / "average.safetensors"
    if damage == "remove":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"step-00000001: .*average\.safetensors"):
        read_checkpoint(path.parent)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_of_shared_out_parameters_it_is_the_same_and_is_shared_out_as_they_are(tmp_path: Path):
    small = EncoderConfig("vit_tiny_patch16_224", (8, 8), (4, 4), width=24, depth=1, heads=2)
    plain = create_encoder(small)
    with torch.no_grad():
        for tensor in plain.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel())))
    sharded = copy.deepcopy(plain)
    shard_parameters(sharded, torch.device("cpu"), 1)
    averages = []
    for model in (plain, sharded):
        average = Average(model, 0.9)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)
        average.update(YES)
        averages.append(average)
    assert all(isinstance(tensor, DTensor) for tensor in averages[1].tensors.values())
    for name, tensor in averages[1].tensors.items():
        assert torch.equal(whole(tensor), averages[0].tensors[name]), name
    checkpoint = read_checkpoint(write(tmp_path, sharded, averages[1]))
    with averages[1].in_place(sharded):
        for name, tensor in sharded.state_dict().items():
            assert torch.equal(whole(tensor), averages[0].tensors[name]), name
    again = Average(sharded, 0.9)
    load_average(checkpoint, again)
    for name, tensor in again.tensors.items():
        assert torch.equal(whole(tensor), averages[0].tensors[name]), name
