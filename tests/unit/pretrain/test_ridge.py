"""The linear classifier: its choice of a strength really leaves images out; edges that features of networks have."""

import pytest
import torch
from torch import Tensor

from pretrain.ridge import STRENGTHS, fit_ridge


def clouds(count: int, classes: int, width: int, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return centres[labels] + spread * torch.randn(count, width, generator=generator), labels


def left_out_error(points: Tensor, targets: Tensor, strength: float) -> float:
    """Mean squared error of images, each predicted by a ridge with a free bias, solved anew without it."""
    count, total = len(points), 0.0
    for image in range(count):
        others = torch.arange(count) != image
        centre, middle = points[others].mean(dim=0), targets[others].mean(dim=0)
        centred = points[others] - centre
        penalty = count * strength * torch.eye(points.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(centred.T @ centred + penalty, centred.T @ (targets[others] - middle))
        total += float((targets[image] - middle - (points[image] - centre) @ weights).square().sum())
    return total / count


@pytest.mark.parametrize(("classes", "width", "spread"), [(3, 5, 1.0), (2, 40, 3.0), (12, 6, 2.0)])
def test_the_strength_is_the_best_when_each_image_is_left_out_in_turn(classes: int, width: int, spread: float):
    features, labels = clouds(50, classes, width, spread)
    points = (features.double() - features.double().mean(dim=0)) / features.double().std(dim=0, correction=0)
    targets = torch.eye(classes, dtype=torch.float64)[labels]
    errors = [left_out_error(points, targets, strength) for strength in STRENGTHS]
    assert fit_ridge(features, labels).strength == STRENGTHS[errors.index(min(errors))]


def test_noise_asks_for_a_stronger_penalty_than_a_clear_signal():
    clear, noisy = (fit_ridge(*clouds(60, 3, 50, spread)).strength for spread in (0.01, 10.0))
    assert clear < noisy


def test_scale_and_offset_of_features_do_not_matter():
    features, labels = clouds(300, 4, 10, 1.5)
    queries, expected = clouds(300, 4, 10, 1.5)
    moved = torch.logspace(-3, 3, 10), torch.linspace(-100, 100, 10)
    plain = fit_ridge(features, labels).predict(queries)
    assert torch.equal(fit_ridge(features * moved[0] + moved[1], labels).predict(queries * moved[0] + moved[1]), plain)
    assert (plain == expected).double().mean() > 0.5


def test_constant_features_get_no_weight_though_rounding_moves_them():
    features, labels = clouds(200, 3, 4, 0.5)
    rounding = torch.randn(200, 2, generator=torch.Generator().manual_seed(1)) * 1e-8
    constant = torch.tensor([1.0, -7.3]) + rounding
    alone, beside = fit_ridge(features, labels), fit_ridge(torch.cat((features, constant), dim=1), labels)
    assert torch.equal(beside.weights[4:], torch.zeros(2, 3, dtype=torch.float64))
    torch.testing.assert_close(beside.weights[:4], alone.weights)


def test_features_that_are_all_alike_predict_the_most_frequent_class():
    labels = torch.tensor([2, 1, 2, 0, 2, 1])
    found = fit_ridge(torch.full((6, 3), 0.7), labels)
    assert found.predict(torch.randn(5, 3, generator=torch.Generator().manual_seed(0))).tolist() == [2] * 5


def test_dimensions_that_repeat_each_other_and_two_images_are_enough():
    features, labels = clouds(100, 3, 4, 0.2)
    twice = torch.cat((features, features), dim=1)
    assert torch.equal(fit_ridge(twice, labels).predict(twice), fit_ridge(features, labels).predict(features))
    pair = fit_ridge(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([1, 0]))
    assert pair.predict(torch.tensor([[-1.0, 1.0], [3.0, 1.0]])).tolist() == [1, 0]


def test_the_same_bits_every_time_and_no_change_of_the_global_generator():
    features, labels = clouds(5000, 7, 16, 2.0)
    before = torch.get_rng_state()
    first, second = fit_ridge(features, labels), fit_ridge(features.clone(), labels)
    assert torch.equal(first.weights, second.weights)
    assert torch.equal(torch.get_rng_state(), before)
