"""The linear classifier of features, and the strength it chooses, are scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier, RidgeClassifierCV
from sklearn.preprocessing import StandardScaler

from pretrain.ridge import STRENGTHS, fit_ridge


def problem(count: int, classes: int, width: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes as clouds that overlap, some frequent and some rare, of dimensions whose means and scales differ by much
    and which depend on each other, as those of a network do.
    """
    generator = torch.Generator().manual_seed(width)
    centres = torch.randn(classes, width, generator=generator)
    labels = (torch.rand(count, generator=generator).square() * classes).long()
    clouds = centres[labels] + spread * torch.randn(count, width, generator=generator)
    mixed = clouds @ torch.randn(width, width, generator=generator)
    return mixed * torch.logspace(-2, 2, width) + 10 * torch.randn(width, generator=generator), labels


@pytest.mark.parametrize(
    ("count", "classes", "width", "spread"),
    [(900, 2, 8, 2.0), (900, 10, 32, 2.0), (60, 3, 100, 2.0), (2000, 100, 64, 3.0), (900, 10, 192, 6.0)],
)
def test_strength_and_predictions_are_those_of_scikit_learn(count: int, classes: int, width: int, spread: float):
    features, labels = problem(count + 1500, classes, width, spread)
    train, queries = features[:count], features[count:]
    scaler = StandardScaler().fit(train.double().numpy())
    standardised, asked = (scaler.transform(values.double().numpy()) for values in (train, queries))
    targets = labels[:count].numpy()
    alphas = [count * strength for strength in STRENGTHS]
    chosen = float(RidgeClassifierCV(alphas).fit(standardised, targets).alpha_ or 0)
    reference = RidgeClassifier(chosen, solver="svd").fit(standardised, targets)
    ours = fit_ridge(train, labels[:count])
    assert ours.strength == pytest.approx(chosen / count)
    assert np.flatnonzero(ours.predict(queries).numpy() != reference.predict(asked)).tolist() == []
    scores = (queries.double() @ ours.weights + ours.bias).numpy()
    expected = (1 + reference.decision_function(asked)) / 2  # of targets -1 and 1
    np.testing.assert_allclose(scores[:, 1] if classes == 2 else scores, expected, atol=1e-7)
    right = (ours.predict(queries) == labels[count:]).double().mean()
    assert 1.2 / classes < right < 1, "the problem must be neither hopeless nor trivial"


def test_of_many_images_the_first_are_left_out_one_by_one_and_all_are_learnt_from():
    features, labels = problem(6000, 5, 12, 3.0)
    standardised = StandardScaler().fit_transform(features.double().numpy())
    alphas = [6000 * strength for strength in STRENGTHS]
    errors = RidgeClassifierCV(alphas, store_cv_results=True).fit(standardised, labels.numpy()).cv_results_
    ours = fit_ridge(features, labels)
    assert ours.strength == STRENGTHS[errors[:2048].mean(axis=(0, 1)).argmin()]
    reference = RidgeClassifier(6000 * ours.strength, solver="svd").fit(standardised, labels.numpy())
    assert ours.predict(features).tolist() == list(reference.predict(standardised))
