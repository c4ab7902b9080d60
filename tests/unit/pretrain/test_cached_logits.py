"""What is kept of logits: probabilities to three digits, the most probable class always, the rest spread evenly."""

import math

import numpy as np
import pytest
import torch

from pretrain.cached_logits import LogitFormat
from pretrain.distillation_config import DistillationConfig
from pretrain.distillation_loss import distillation_losses

HALF = 2.0**-11  # rounding to half precision changes a number by no more than this share of it


def draw(rows: int, classes: int, scale: float = 4.0) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(classes)) * scale


def again(logits: torch.Tensor, kept: int | None = None) -> torch.Tensor:
    rows = LogitFormat(logits.shape[1], kept)
    return rows.unpack(rows.pack(logits))


def test_all_logits_keep_every_probability_to_half_a_thousandth_of_its_logarithm():
    logits = draw(64, 37) + 300  # what is common to all of a row costs no digits
    logs = logits.log_softmax(dim=1)
    assert ((again(logits) - logs).abs() <= 1.001 * HALF * logs.abs() + 1e-6).all()


@pytest.mark.parametrize("kept", [1, 5, 36])
def test_kept_classes_have_their_probabilities_and_the_others_the_rest_evenly(kept: int):
    logits = draw(64, 37)
    shares, found = logits.softmax(dim=1), again(logits, kept).softmax(dim=1)
    chosen = shares.topk(kept, dim=1)
    torch.testing.assert_close(found.gather(1, chosen.indices), chosen.values, rtol=0.01, atol=1e-6)
    others = torch.ones_like(shares, dtype=torch.bool).scatter_(1, chosen.indices, False)
    spread = found[others].view(64, -1)
    torch.testing.assert_close(spread, spread[:, :1].expand_as(spread))
    torch.testing.assert_close(spread.sum(1), shares[others].view(64, -1).sum(1), rtol=0.01, atol=1e-6)


def test_numbers_of_classes_take_as_few_bytes_as_they_can():
    sizes = [LogitFormat(classes, 2).columns["classes"][0].itemsize for classes in (256, 257, 65_536, 65_537)]
    assert sizes == [1, 2, 2, 4]
    logits = draw(3, 300)
    assert LogitFormat(300, 2).pack(logits)["classes"].tolist() == logits.topk(2, dim=1).indices.tolist()


@pytest.mark.parametrize("kept", [None, 1, 3])
def test_the_most_probable_class_stays_it_however_near_the_next_is(kept: int | None):
    """Also the first of several that are equal, as `argmax` takes it: in bf16 many are."""
    near = torch.zeros(3, 8)
    near[0, 5] = 1e-4
    near[1, 2] = near[1, 6] = 1e-3
    rough = draw(512, 8, 0.05).bfloat16().float()
    for logits in (near, rough):
        found = again(logits, kept)
        assert found.argmax(dim=1).tolist() == logits.argmax(dim=1).tolist()
        assert (found == found.amax(dim=1, keepdim=True)).sum(dim=1).eq(1).all(), "one alone"


@pytest.mark.parametrize("kept", [None, 2])
def test_classes_that_are_impossible_stay_so(kept: int | None):
    logits = torch.tensor([[1.0, 2.0, -math.inf, -math.inf], [-2e5, 0.0, -3e5, -4e5]])
    found = again(logits, kept)
    assert found.isfinite().all()
    torch.testing.assert_close(found.softmax(dim=1), logits.softmax(dim=1), rtol=1e-3, atol=1e-6)


def test_the_hard_loss_is_the_same_to_the_bit():
    teacher, student = draw(256, 12).bfloat16().float(), draw(256, 12).roll(1, 0)
    hard = DistillationConfig("hard")
    for kept in (None, 3):
        assert torch.equal(
            distillation_losses(student, again(teacher, kept), hard), distillation_losses(student, teacher, hard)
        )


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_soft_loss_is_the_same_but_for_the_rounding(temperature: float):
    """Where each logarithm of a probability p changes by d at most, KL(p || q) at temperature tau, times tau^2, changes
    by no more than 2 d tau E|log p/q| and terms of d^2.
    """
    teacher, student = draw(256, 12), draw(256, 12).roll(1, 0)
    soft = DistillationConfig("soft", temperature=temperature)
    changed = (distillation_losses(student, again(teacher), soft) - distillation_losses(student, teacher, soft)).abs()
    ours, theirs = ((one / temperature).log_softmax(dim=1) for one in (student, teacher))
    largest = HALF * teacher.log_softmax(dim=1).abs().amax(dim=1)
    spread = (theirs.exp() * (theirs - ours).abs()).sum(dim=1)
    bound = 2 * largest * temperature * spread
    assert (changed <= 1.05 * bound + 1e-5).all()
    assert bound.mean() < 0.03 * distillation_losses(student, teacher, soft).mean(), "a bound that says something"


def test_keeping_all_classes_by_number_is_refused():
    message = r"^--cache-teacher.classes 10: the teacher has 10 classes; give fewer, or leave it out, which keeps all$"
    with pytest.raises(ValueError, match=message):
        LogitFormat(10, 10)
    assert np.dtype("f2") == LogitFormat(10, 9).columns["logits"][0]
