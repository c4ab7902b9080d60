"""Predictions of weighted nearest neighbours are those of scikit-learn, one for one, for every k of a sweep."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from pretrain.health import knn_predict
from pretrain.nearest import nearest, vote

COUNTS = (1, 2, 20, 200)


def problem(seed: int, classes: int, width: int, spread: float) -> tuple[torch.Tensor, ...]:
    """Classes as clouds around random centres, of features whose lengths differ by much: only angles may count."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=generator)
    parts = []
    for count in (800, 1500):
        labels = torch.randint(0, classes, (count,), generator=generator)
        clouds = centres[labels] + spread * torch.randn(count, width, generator=generator)
        parts += [clouds * torch.empty(count, 1).uniform_(0.1, 10, generator=generator), labels]
    return tuple(parts)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize(("classes", "width", "spread"), [(2, 8, 2.0), (10, 32, 2.0), (100, 64, 3.0), (10, 192, 6.0)])
def test_predictions_are_those_of_scikit_learn(classes: int, width: int, spread: float, temperature: float):
    train, train_labels, queries, labels = problem(width, classes, width, spread)

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / temperature)

    found = nearest(train, queries, max(COUNTS), rows=(300, 500))
    swept = vote(found.similarity, train_labels[found.number], COUNTS, temperature=temperature)
    for neighbours in COUNTS:
        reference = KNeighborsClassifier(neighbours, metric="cosine", algorithm="brute", weights=weights)
        expected = reference.fit(train.numpy(), train_labels.numpy()).predict(queries.numpy())
        ours = knn_predict(train, train_labels, queries, neighbours=neighbours, temperature=temperature)
        assert torch.equal(ours, swept[neighbours])
        assert np.flatnonzero(ours.numpy() != expected).tolist() == []
        right = (ours == labels).double().mean().item()
        assert 1.2 / classes < right < 1, "the problem must be neither hopeless nor trivial"
