"""k-NN against scikit-learn, and features that do not depend on the number of processes."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from pretrain.health import knn_predict


@pytest.mark.parametrize("neighbours", [1, 5, 20])
def test_predictions_equal_scikit_learns(neighbours: int):
    generator = torch.Generator().manual_seed(neighbours)
    train, queries = (torch.randn(count, 16, generator=generator) for count in (500, 200))
    labels = torch.randint(0, 7, (500,), generator=generator)

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / 0.07)

    reference = KNeighborsClassifier(neighbours, metric="cosine", weights=weights).fit(train.numpy(), labels.numpy())
    ours = knn_predict(train, labels, queries, neighbours=neighbours, temperature=0.07)
    assert ours.tolist() == reference.predict(queries.numpy()).tolist()


def test_fewer_images_than_neighbours_all_vote():
    train, labels = torch.eye(3), torch.tensor([2, 0, 1])
    assert knn_predict(train, labels, torch.eye(3), neighbours=20, temperature=0.07).tolist() == [2, 0, 1]
