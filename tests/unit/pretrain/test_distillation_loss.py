"""The teacher's part of the loss in any precision, its gradients, and rows without a label."""

import math

import pytest
import torch
from torch import Tensor

from pretrain.distillation_config import DistillationConfig
from pretrain.distillation_loss import combine, distillation_losses

HARD, SOFT = DistillationConfig("hard"), DistillationConfig("soft")


def logits(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (3 * torch.randn(4, 7, generator=torch.Generator().manual_seed(seed))).to(dtype)


def gradient(student: Tensor, teacher: Tensor, config: DistillationConfig) -> Tensor:
    student = student.clone().requires_grad_()
    distillation_losses(student, teacher, config).sum().backward()
    assert student.grad is not None
    return student.grad


def test_a_student_that_agrees_costs_nothing():
    same = logits(0)
    for temperature in (0.5, 1.0, 4.0):
        config = DistillationConfig("soft", temperature=temperature)
        assert distillation_losses(same + 5, same, config).abs().max() < 1e-5  # a constant says nothing
        assert gradient(same, same, config).abs().max() < 1e-6
    assert (distillation_losses(logits(1), same, SOFT) > 0.1).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_gradient_of_soft_is_the_difference_of_the_distributions_times_tau(temperature: float):
    student, teacher = logits(1), logits(2)
    expected = temperature * ((student / temperature).softmax(1) - (teacher / temperature).softmax(1))
    found = gradient(student, teacher, DistillationConfig("soft", temperature=temperature))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_the_gradient_of_hard_is_that_of_a_label():
    student, teacher = logits(1), logits(2)
    expected = student.softmax(1) - torch.nn.functional.one_hot(teacher.argmax(1), 7)
    torch.testing.assert_close(gradient(student, teacher, HARD), expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(gradient(student, 100 * teacher, HARD), gradient(student, teacher, HARD))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("config", [HARD, SOFT, DistillationConfig("soft", temperature=0.01)], ids=str)
def test_low_precision_logits_are_judged_in_float32(dtype: torch.dtype, config: DistillationConfig):
    student, teacher = logits(1, dtype), logits(2, dtype)
    found = distillation_losses(student, teacher, config)
    assert found.dtype == torch.float32
    assert torch.equal(found, distillation_losses(student.float(), teacher.float(), config))
    torch.testing.assert_close(
        gradient(student, teacher, config), gradient(student.float(), teacher.float(), config).to(dtype)
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distillation_losses(student, teacher, config), found)


@pytest.mark.parametrize("config", [HARD, SOFT, DistillationConfig("soft", temperature=20.0)], ids=str)
def test_the_largest_float16_logits_stay_finite(config: DistillationConfig):
    student = torch.tensor([[65504.0, -65504.0, 0.0]], dtype=torch.float16)
    teacher = torch.tensor([[-65504.0, 65504.0, 0.0]], dtype=torch.float16)
    assert distillation_losses(student, teacher, config).item() > 1e5
    assert gradient(student, teacher, config).isfinite().all()


def test_classes_that_a_teacher_leaves_out_have_no_part():
    """As where only its largest logits are kept."""
    teacher = torch.tensor([[1.0, 0.0, -math.inf, -math.inf]])
    student = torch.tensor([[0.5, 1.5, 2.0, -3.0]])
    shares = [math.e / (math.e + 1), 1 / (math.e + 1)]
    total = sum(math.exp(value) for value in student[0].tolist())
    chances = [math.exp(0.5) / total, math.exp(1.5) / total]
    expected = sum(ours * math.log(ours / theirs) for ours, theirs in zip(shares, chances, strict=True))
    assert distillation_losses(student, teacher, SOFT).item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient(student, teacher, SOFT), student.softmax(1) - teacher.softmax(1))
    assert distillation_losses(student, teacher, HARD).item() == pytest.approx(-math.log(chances[0]), rel=1e-5)


def test_the_teacher_learns_nothing():
    teacher = logits(2).requires_grad_()
    for config in (HARD, SOFT):
        distillation_losses(logits(1).requires_grad_(), teacher, config).sum().backward()
    assert teacher.grad is None


def test_a_row_without_a_label_has_the_teachers_part_alone():
    base = torch.tensor([1.0, 2.0, 4.0, math.nan])
    distilled = torch.tensor([10.0, 20.0, 30.0, 40.0])
    known = torch.tensor([True, True, False, False])
    torch.testing.assert_close(combine(base, known, distilled, 0.25), torch.tensor([3.25, 6.5, 7.5, 10.0]))
    torch.testing.assert_close(combine(base, known, distilled, 1.0), distilled)


def test_neither_part_of_a_row_moves_what_the_other_is_of():
    base, distilled = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    combine(base, torch.tensor([True, False, True]), distilled, 0.25).mean().backward()
    torch.testing.assert_close(base.grad, torch.tensor([0.25, 0.0, 0.25]))
    torch.testing.assert_close(distilled.grad, torch.full((3,), 0.25 / 3))
