"""Metrics worked by hand, and against scikit-learn's."""

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score

from finetune.accuracy import measure


def test_three_images_by_hand():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]]))
    found = measure(logits, torch.tensor([0, 1, 2]), undecodable=2)
    assert (found.images, found.undecodable) == (3, 2)
    assert found.top1 == pytest.approx(2 / 3)
    assert found.top5 == 1
    assert found.nll == pytest.approx(-(math.log(0.7) + math.log(0.3) + math.log(0.8)) / 3)
    assert found.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert found.to_json(("a", "b", "c"))["images_per_class"] == [1, 1, 1]


def test_against_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 20, generator=generator)
    labels = torch.randint(0, 20, (500,), generator=generator)
    found = measure(logits, labels)
    shares = logits.double().softmax(dim=1).numpy()
    truth, guess = labels.numpy(), logits.argmax(dim=1).numpy()
    assert found.top1 == pytest.approx((truth == guess).mean())
    assert found.top5 == pytest.approx(top_k_accuracy_score(truth, shares, k=5))
    assert found.nll == pytest.approx(log_loss(truth, shares))
    assert found.mean_class_accuracy == pytest.approx(balanced_accuracy_score(truth, guess))
    assert found.confusion.numpy().tolist() == confusion_matrix(truth, guess).tolist()


def test_classes_that_do_not_occur_and_equal_logits():
    found = measure(torch.zeros(2, 8), torch.tensor([4, 5]))
    assert (found.top1, found.top5) == (0, 0.5), "of equal logits those of lower classes come first"
    assert found.mean_class_accuracy == 0
    assert found.confusion.sum().item() == 2
