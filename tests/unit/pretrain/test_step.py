"""One optimisation step: gradients of uneven pieces, clipping, and steps that are skipped."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from pretrain.config import OptimizerConfig
from pretrain.loss_scale import LossScale, is_least
from pretrain.optimizer import create_optimizer, gradient_norms
from pretrain.step import Stepper
from pretrain.world import World

CPU = torch.device("cpu")


def small_model() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, generator=generator)
    return model


def squares(model: nn.Module, values: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    losses = model(values).square().mean(dim=1)
    return losses, {"twice": 2 * losses.mean()}


def rows(count: int = 7) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(1))


def make(
    model: nn.Module, accumulate: int = 1, clip_norm: float | None = None, scale: LossScale | None = None
) -> tuple[Stepper, torch.optim.Optimizer]:
    optimizer = create_optimizer(model, OptimizerConfig())
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    stepper = Stepper(World("fp32"), model, optimizer, squares, accumulate=accumulate, clip_norm=clip_norm, scale=scale)
    return stepper, optimizer


def by_hand(model: nn.Module, values: list[Tensor], clip_norm: float | None = None) -> None:
    """Plain steps of plain torch."""
    optimizer = create_optimizer(model, OptimizerConfig())
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for some in values:
        squares(model, some)[0].mean().backward()
        if clip_norm is not None:
            clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        optimizer.zero_grad()


def difference(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize("accumulate", [1, 2, 3, 7])
@pytest.mark.parametrize("clip_norm", [None, 0.01, 1e6])
def test_steps_are_those_of_plain_torch_in_any_number_of_pieces(accumulate: int, clip_norm: float | None):
    model = small_model()
    expected = copy.deepcopy(model)
    by_hand(expected, [rows(), -rows()], clip_norm)
    stepper, _ = make(model, accumulate, clip_norm)
    before = copy.deepcopy(model)
    outcome = stepper.step((rows(),))
    losses, extras = squares(before, rows())
    losses.mean().backward()
    torch.testing.assert_close(outcome.losses, losses.detach())
    torch.testing.assert_close(outcome.logged, {"loss": losses.mean().detach(), "twice": extras["twice"].detach()})
    stepper.step((-rows(),))
    assert difference(model, expected) < 1e-6
    order = dict(before.named_parameters())
    expected_norms = torch.stack([order[name].grad.norm() for name in stepper.names])  # type: ignore[union-attr]
    torch.testing.assert_close(outcome.norms, expected_norms)
    torch.testing.assert_close(outcome.norm, torch.linalg.vector_norm(expected_norms))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(bad: float):
    model = small_model()
    stepper, optimizer = make(model)
    stepper.step((rows(),))
    before, state = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict()["state"])
    values = rows()
    values[3, 1] = bad
    outcome = stepper.step((values,))
    assert not outcome.norm.isfinite()
    assert outcome.losses.isfinite().tolist() == [True, True, True, False, True, True, True]
    assert difference(model, before) == 0
    for number, kinds in optimizer.state_dict()["state"].items():
        assert all(torch.equal(tensor, state[number][kind]) for kind, tensor in kinds.items())
    stepper.step((rows(),))
    expected = small_model()
    by_hand(expected, [rows(), rows()])
    assert difference(model, expected) == 0


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_that_is_not_finite_leaves_running_statistics_as_they_were(accumulate: int):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    stepper, _ = make(model, accumulate)
    stepper.step((rows(),))
    before = copy.deepcopy(model.state_dict())
    assert before["3.num_batches_tracked"] == accumulate
    assert not stepper.step((rows().index_fill(0, torch.tensor([0]), float("inf")),)).norm.isfinite()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    stepper.step((rows(),))
    assert not torch.equal(model.state_dict()["3.running_var"], before["3.running_var"])
    assert model.state_dict()["3.num_batches_tracked"] == 2 * accumulate


def test_an_optimizer_that_is_not_fused_skips_too():
    model = small_model()
    named = list(model.named_parameters())
    optimizer = torch.optim.SGD([{"params": named}], lr=0.1, momentum=0.9)
    stepper = Stepper(World("fp32"), model, optimizer, squares, accumulate=1, clip_norm=0.5, scale=None)
    stepper.step((rows(),))
    before = copy.deepcopy(model)
    stepper.step((rows() * float("nan"),))
    assert difference(model, before) == 0
    stepper.step((rows(),))
    expected = small_model()
    plain = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        squares(expected, rows())[0].mean().backward()
        clip_grad_norm_(expected.parameters(), 0.5)
        plain.step()
        plain.zero_grad()
    assert difference(before, expected) > 0
    assert difference(model, expected) < 1e-6


@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_a_loss_scale_changes_no_step(clip_norm: float | None):
    model, expected = small_model(), small_model()
    by_hand(expected, [rows()], clip_norm)
    stepper, _ = make(model, 2, clip_norm, LossScale(CPU))
    outcome = stepper.step((rows(),))
    assert outcome.scale == 2.0**16
    assert difference(model, expected) < 1e-6
    plain, _ = make(small_model(), 2, clip_norm)
    torch.testing.assert_close(outcome.norms, plain.step((rows(),)).norms)


def test_the_loss_scale_is_halved_by_overflows_and_doubled_after_2000_good_steps():
    scale = LossScale(CPU)
    good, bad = torch.tensor(False), torch.tensor(True)
    scale.update(bad)
    assert scale.state() == {"value": 2.0**15, "good_steps": 0}
    for _ in range(1999):
        scale.update(good)
    assert scale.state() == {"value": 2.0**15, "good_steps": 1999}
    other = LossScale(CPU)
    other.load_state(scale.state())
    for one in (scale, other):
        one.update(good)
        assert one.state() == {"value": 2.0**16, "good_steps": 0}
    for _ in range(40):
        scale.update(bad)
    assert scale.state() == {"value": 1.0, "good_steps": 0}
    assert [is_least(value) for value in (None, 1.0, 2.0)] == [True, True, False]


def test_more_pieces_than_rows():
    stepper, _ = make(small_model(), accumulate=8)
    with pytest.raises(ValueError, match="--accumulate 8 is more than the 7 images of each process; give at most 7"):
        stepper.step((rows(),))


def test_a_parameter_without_a_gradient_has_norm_0():
    first, second, third = (nn.Parameter(torch.ones(2)) for _ in range(3))
    first.grad, third.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    assert gradient_norms([first, second, third]).tolist() == [5.0, 0.0, 2.0]
