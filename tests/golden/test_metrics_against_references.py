"""Metrics are those worked by hand, of scikit-learn, and of plain loops; intervals are those of closed forms."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score

from finetune.paired_tests import difference_interval, holm, mcnemar
from pretrain.accuracy import measure
from pretrain.intervals import Bootstrap
from pretrain.multi_label_accuracy import measure_multi_label


def logits_of(shares: list[list[float]]) -> torch.Tensor:
    return torch.tensor(shares, dtype=torch.float64).log().float()


def problem(images: int, classes: int, strength: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions that are often right, of classes some of which are rare."""
    generator = torch.Generator().manual_seed(images + classes)
    labels = (torch.rand(images, generator=generator).square() * classes).long()
    logits = torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += strength
    return logits, labels


def test_calibration_worked_by_hand():
    """Two of .9, one right; one of .62, right; one of .58, wrong: bins 14, 10 and 9 of 15."""
    shares = [[0.9, 0.1], [0.1, 0.9], [0.62, 0.38], [0.42, 0.58]]
    found = measure(logits_of(shares), torch.tensor([0, 0, 0, 0]))
    assert found.calibration.images.tolist() == [0] * 8 + [1, 1] + [0] * 3 + [2, 0]
    # (2 |1/2 - .9| + |1 - .62| + |0 - .58|) / 4
    assert found.ece == pytest.approx((2 * 0.4 + 0.38 + 0.58) / 4, abs=1e-7)
    assert found.nll == pytest.approx(-(math.log(0.9) + math.log(0.1) + math.log(0.62) + math.log(0.42)) / 4, abs=1e-6)
    assert found.brier == pytest.approx((2 * 0.01 + 2 * 0.81 + 2 * 0.38**2 + 2 * 0.58**2) / 4, abs=1e-6)
    bins = found.to_json(("a", "b"))["calibration"]
    assert bins[13] == {
        "above": pytest.approx(13 / 15),
        "to": pytest.approx(14 / 15),
        "images": 2,
        "confidence": pytest.approx(0.9),
        "accuracy": 0.5,
    }
    assert bins[0]["confidence"] is bins[0]["accuracy"] is None


def test_a_confidence_on_an_edge_belongs_below_it():
    """Bin m is ((m - 1) / M, m / M]. Five equal classes: .2 = 3/15, the third bin; one that is sure: the last."""
    found = measure(torch.zeros(1, 5), torch.tensor([0]))
    assert found.calibration.images.tolist() == [0, 0, 1] + [0] * 12
    sure = measure(torch.tensor([[0.0, -1000.0]]), torch.tensor([0]))
    assert sure.calibration.images.tolist() == [0] * 14 + [1]
    assert sure.ece == 0


@pytest.mark.parametrize(("images", "classes", "strength"), [(500, 10, 2.0), (2000, 3, 0.0), (300, 100, 6.0)])
def test_ece_is_that_of_a_plain_loop(images: int, classes: int, strength: float):
    logits, labels = problem(images, classes, strength)
    shares, predicted = logits.double().softmax(dim=1).max(dim=1)
    confidence, hits = shares.tolist(), (predicted == labels).tolist()
    ece = 0.0
    for number in range(15):
        members = [row for row in range(images) if number / 15 < confidence[row] <= (number + 1) / 15]
        if members:
            accuracy = sum(hits[row] for row in members) / len(members)
            ece += len(members) / images * abs(accuracy - sum(confidence[row] for row in members) / len(members))
    assert measure(logits, labels).ece == pytest.approx(ece, abs=1e-12)


def test_brier_is_scikit_learns():
    logits, labels = problem(400, 6)
    expected = brier_score_loss(labels.numpy(), logits.double().softmax(dim=1).numpy(), scale_by_half=False)
    assert measure(logits, labels).brier == pytest.approx(expected, abs=1e-12)


# The error of a percentile over d draws is sqrt(q (1 - q) / d) / phi(z): .027 standard deviations at q = .025 and
# 10,000 draws. Five of these, and the step of a share of n images.
_DRAWS = 10_000
_ERROR = 5 * math.sqrt(0.025 * 0.975 / _DRAWS) / 0.0584


def test_the_interval_of_a_share_is_that_of_the_binomial():
    logits, labels = problem(600, 4)
    found = measure(logits, labels).with_intervals(Bootstrap(_DRAWS, seed=1))
    assert found.intervals is not None
    spread = math.sqrt(found.top1 * (1 - found.top1) / 600)
    low, high = found.intervals["top1"]
    assert low == pytest.approx(found.top1 - 1.96 * spread, abs=_ERROR * spread + 1 / 600)
    assert high == pytest.approx(found.top1 + 1.96 * spread, abs=_ERROR * spread + 1 / 600)


@pytest.mark.parametrize("name", ["nll", "brier"])
def test_the_interval_of_a_mean_is_that_of_the_normal(name: str):
    logits, labels = problem(2000, 4)
    found = measure(logits, labels).with_intervals(Bootstrap(_DRAWS))
    assert found.intervals is not None
    values, mean = getattr(found.predictions, name), getattr(found, name)
    spread = values.std() / math.sqrt(2000)
    skew = ((values - mean) ** 3).mean() / values.std() ** 3 / math.sqrt(2000)
    for end, sign in zip(found.intervals[name], (-1, 1), strict=True):
        expected = mean + spread * (sign * 1.96 + (1.96**2 - 1) * skew / 6)  # Cornish and Fisher 1938, first order
        assert end == pytest.approx(expected, abs=_ERROR * spread)


def repeated(bootstrap: Bootstrap, images: int) -> Iterator[torch.Tensor]:
    """The rows of each draw, every one as often as it was drawn."""
    for counts in bootstrap.resampled(images):
        for row in counts:
            yield torch.from_numpy(np.repeat(np.arange(images), row))


def test_every_interval_is_of_the_figures_of_the_very_images_drawn():
    logits, labels = problem(80, 12)
    found = measure(logits, labels).with_intervals(Bootstrap(200, seed=3))
    assert found.intervals is not None
    order = labels.argsort(stable=True)
    draws = [measure(logits[order][rows], labels[order][rows]) for rows in repeated(Bootstrap(200, seed=3), 80)]
    assert min(len(one.confusion.sum(dim=1).nonzero()) for one in draws) < len(labels.unique()), "classes are lacking"
    assert list(found.intervals) == ["top1", "top5", "mean_class_accuracy", "nll", "ece", "brier"]
    for name, ends in found.intervals.items():
        expected = np.percentile([getattr(one, name) for one in draws], (2.5, 97.5))
        assert ends[0] < ends[1]
        np.testing.assert_allclose(ends, expected, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize(("classes", "decimals"), [(5, 6), (5, 1), (3, 0)])
def test_average_precision_is_scikit_learns_with_and_without_ties(classes: int, decimals: int):
    generator = torch.Generator().manual_seed(classes)
    targets = torch.rand(300, classes, generator=generator) < 0.2
    logits = (torch.randn(300, classes, generator=generator) + targets).round(decimals=decimals)
    found = measure_multi_label(logits, targets)
    truth, said = targets.numpy(), (logits > 0).numpy()
    expected = [average_precision_score(truth[:, one], logits[:, one].numpy()) for one in range(classes)]
    np.testing.assert_allclose(found.average_precision, expected, rtol=1e-12)
    assert found.mean_average_precision == pytest.approx(np.mean(expected), abs=1e-12)
    assert found.micro_f1 == pytest.approx(f1_score(truth, said, average="micro"), abs=1e-12)
    assert found.macro_f1 == pytest.approx(f1_score(truth, said, average="macro"), abs=1e-12)
    assert found.exact_match == pytest.approx((truth == said).all(axis=1).mean(), abs=1e-12)


def test_the_interval_of_average_precision_is_of_the_very_images_drawn():
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(60, 3, generator=generator) < torch.tensor([0.4, 0.2, 0.03])  # the last is lacking at times
    logits = (torch.randn(60, 3, generator=generator) + targets).round(decimals=1)
    found = measure_multi_label(logits, targets).with_intervals(Bootstrap(100))
    assert found.interval is not None
    draws = [measure_multi_label(logits[rows], targets[rows]) for rows in repeated(Bootstrap(100), 60)]
    assert min(one.positives.min() for one in draws) == 0
    expected = np.percentile([one.mean_average_precision for one in draws], (2.5, 97.5))
    np.testing.assert_allclose(found.interval, expected, rtol=1e-12)


def right(only_first: int, only_second: int, both: int = 5, neither: int = 5) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([True, False, True, False], [only_first, only_second, both, neither])
    return first, np.repeat([False, True, True, False], [only_first, only_second, both, neither])


@pytest.mark.parametrize(
    ("b", "c", "ways"),
    [
        (1, 9, 1 + 10),  # of 2^10
        (9, 1, 1 + 10),
        (0, 6, 1),
        (3, 5, 1 + 8 + 28 + 56),
    ],
)
def test_mcnemar_worked_by_hand_where_few_images_differ(b: int, c: int, ways: int):
    found = mcnemar(*right(b, c))
    assert (found.b, found.c, found.statistic, found.exact) == (b, c, min(b, c), True)
    assert found.p == 2 * ways / 2 ** (b + c)


def test_mcnemar_worked_by_hand_where_many_differ():
    """(|121 - 59| - 1)^2 / 180 = 61^2 / 180 = 20.672; of chi-squared of one degree of freedom 3.841 is p = .05."""
    found = mcnemar(*right(121, 59))
    assert (found.b, found.c, found.exact) == (121, 59, False)
    assert found.statistic == pytest.approx(3721 / 180)
    assert found.p == pytest.approx(5.45e-6, rel=2e-3)
    # (|40 - 22| - 1)^2 / 62 = 289 / 62 = 4.661 and so p < .05; of 41 and 24, 256 / 65 = 3.938; of 41 and 25, 3.409.
    assert mcnemar(*right(41, 24)).p < 0.05 < mcnemar(*right(41, 25)).p


def test_mcnemar_of_equals():
    assert mcnemar(*right(0, 0))[:4] == (0, 0, 0, 1)
    assert mcnemar(*right(4, 4)).p == 1
    assert mcnemar(*right(30, 30))[2:] == (0, 1, False)


def test_the_interval_of_a_difference_is_that_of_paired_shares():
    """Its variance is (b + c - (b - c)^2 / n) / n^2, much less than of two independent sets of images."""
    first, second = right(60, 100, both=700, neither=140)
    low, high = difference_interval(first, second, Bootstrap(_DRAWS))
    spread = math.sqrt(160 - 40**2 / 1000) / 1000
    assert low == pytest.approx(0.04 - 1.96 * spread, abs=_ERROR * spread + 1e-3)
    assert high == pytest.approx(0.04 + 1.96 * spread, abs=_ERROR * spread + 1e-3)


def test_holm_worked_by_hand():
    """Sorted .005, .01, .03, .04: times 4, 3, 2, 1 they are .02, .03, .06, .04, and the last is raised to .06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1, 1]
