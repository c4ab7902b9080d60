"""LAMB against its definition, and what skipped steps leave of it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pretrain.lamb import Lamb

RATES = (1e-2, 2e-2, 5e-3)


def layer(dtype: torch.dtype = torch.float32) -> nn.Linear:
    model = nn.Linear(3, 2, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, generator=generator)
    return model


def optimizer_of(model: nn.Linear, **changes) -> Lamb:
    named = dict(model.named_parameters())
    decaying = {"params": [("weight", named["weight"])], "weight_decay": 0.1}
    return Lamb([decaying, {"params": [("bias", named["bias"])]}], **changes)


def gradients(step: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "weight": torch.randn(2, 3, generator=generator, dtype=dtype),
        "bias": torch.randn(2, generator=generator, dtype=dtype),
    }


def take(model: nn.Module, optimizer: Lamb, given: dict[str, Tensor], rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    for name, parameter in model.named_parameters():
        parameter.grad = given[name].clone()
    optimizer.step()


def test_it_follows_its_definition():
    model = layer(torch.float64)
    optimizer = optimizer_of(model, betas=(0.9, 0.99), eps=1e-3)
    expected = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    first = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    second = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    for step, rate in enumerate(RATES, start=1):
        given = gradients(step, torch.float64)
        for name, gradient in given.items():
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.99 * second[name] + 0.01 * gradient**2
            update = first[name] / (1 - 0.9**step) / ((second[name] / (1 - 0.99**step)).sqrt() + 1e-3)
            if name == "weight":
                update = update + 0.1 * expected[name]
                update = update * expected[name].norm() / update.norm()
            expected[name] = expected[name] - rate * update
        take(model, optimizer, given, rate)
    torch.testing.assert_close(dict(model.named_parameters()), expected, rtol=1e-6, atol=1e-7)


def test_a_step_is_as_long_as_the_rate_times_the_tensor_and_a_bias_takes_adams():
    model = layer()
    before = copy.deepcopy(model)
    take(model, optimizer_of(model), gradients(1), 0.01)
    moved = model.weight - before.weight
    torch.testing.assert_close(moved.norm(), 0.01 * before.weight.norm())
    torch.testing.assert_close(model.bias - before.bias, -0.01 * gradients(1)["bias"].sign())


def test_weights_of_zero_take_adams_step():
    model = layer()
    nn.init.zeros_(model.weight)
    take(model, optimizer_of(model), gradients(1), 0.01)
    torch.testing.assert_close(model.weight.detach(), -0.01 * gradients(1)["weight"].sign())


def test_weights_of_zero_without_a_gradient_stay():
    model = layer()
    nn.init.zeros_(model.weight)
    take(model, optimizer_of(model), {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, 0.01)
    assert torch.equal(model.weight, torch.zeros(2, 3))


def test_a_parameter_without_a_gradient_stays_and_has_no_state():
    model = layer()
    before = copy.deepcopy(model)
    optimizer = optimizer_of(model)
    optimizer.param_groups[0]["lr"] = 0.1
    model.weight.grad = gradients(1)["weight"]
    optimizer.step()
    assert torch.equal(model.bias, before.bias)
    assert list(optimizer.state) == [model.weight]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_skipped_step_leaves_no_trace(is_first: bool):
    expected, model = layer(), layer()
    reference, optimizer = optimizer_of(expected), optimizer_of(model)
    if not is_first:
        for some, its_optimizer in ((expected, reference), (model, optimizer)):
            take(some, its_optimizer, gradients(1), 0.1)
    before = copy.deepcopy(model.state_dict())
    optimizer.found_inf = torch.tensor(1.0)
    take(model, optimizer, {"weight": torch.full((2, 3), torch.nan), "bias": torch.tensor([torch.inf, 1.0])}, 0.1)
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor), name
    optimizer.found_inf = torch.tensor(0.0)
    take(model, optimizer, gradients(2), 0.1)
    take(expected, reference, gradients(2), 0.1)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    for parameter, other in zip(model.parameters(), expected.parameters(), strict=True):
        for kind, tensor in reference.state[other].items():
            assert torch.equal(optimizer.state[parameter][kind], tensor), kind


def test_gradients_are_divided_by_the_scale():
    expected, model = layer(), layer()
    reference, optimizer = optimizer_of(expected), optimizer_of(model)
    optimizer.grad_scale = torch.tensor(1024.0)
    for step, rate in enumerate(RATES):
        take(expected, reference, gradients(step), rate)
        take(model, optimizer, {name: 1024 * tensor for name, tensor in gradients(step).items()}, rate)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_a_loaded_state_counts_on():
    model = layer()
    optimizer = optimizer_of(model)
    take(model, optimizer, gradients(1), 0.1)
    other = copy.deepcopy(model)
    its_optimizer = optimizer_of(other)
    its_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for some, of in ((model, optimizer), (other, its_optimizer)):
        take(some, of, gradients(2), 0.1)
        assert {state["step"].item() for state in of.state.values()} == {2}
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
