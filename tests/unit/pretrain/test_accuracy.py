"""Metrics worked by hand, and against scikit-learn's; evaluations of a dataset that holds what does not decode."""

import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score
from torch import Tensor

from data_pipeline.augment import CenterCrop
from data_pipeline.rows import Part
from pretrain.accuracy import evaluate_split, measure
from pretrain.intervals import Bootstrap
from pretrain.world import World

VIEW = CenterCrop((8, 8))


@pytest.fixture(scope="module")
def world() -> World:
    return World("fp32")


def logits_of(images: Tensor) -> Tensor:
    """Of images that tell their number i the class i mod 10, as it is their label, but of every third one the next."""
    numbers = images[:, 0, 0, 0].long()
    taken = (numbers + (numbers % 3 == 0)) % 10
    return torch.nn.functional.one_hot(taken, 10).float() * 2


def test_three_images_by_hand():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]]))
    found = measure(logits, torch.tensor([0, 1, 2]), undecodable=2)
    assert (found.images, found.undecodable) == (3, 2)
    assert found.top1 == pytest.approx(2 / 3)
    assert found.top5 == 1
    assert found.nll == pytest.approx(-(math.log(0.7) + math.log(0.3) + math.log(0.8)) / 3)
    assert found.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert found.to_json(("a", "b", "c"))["images_per_class"] == [1, 1, 1]
    assert found.predictions.ranks.tolist() == [1, 2, 1]
    assert found.predictions.best.tolist() == [[0, 1, 2], [0, 1, 2], [2, 0, 1]]
    np.testing.assert_allclose(found.predictions.confidence, [0.7, 0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(found.predictions.probability, [0.7, 0.3, 0.8], rtol=1e-6)


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
    assert found.predictions.ranks.tolist() == [5, 6]
    assert found.mean_class_accuracy == 0
    assert found.confusion.sum().item() == 2


def test_what_is_not_finite_is_no_prediction():
    logits = torch.tensor([[0.0, 1.0], [math.nan, 0.0], [0.0, math.inf]])
    message = "expected finite logits, got others for 2 of 3 images, the first of them sample 1; look at the weights"
    with pytest.raises(ValueError, match=message):
        measure(logits, torch.tensor([0, 1, 0]))


def test_files_hold_plain_numbers_and_intervals_where_they_were_asked_for():
    logits, labels = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3
    found = measure(logits, labels)
    assert list(found.summary()) == ["top1", "top5", "mean_class_accuracy", "nll", "ece"]
    assert "intervals" not in found.to_json(("a", "b", "c"))
    written = json.loads(json.dumps(found.with_intervals(Bootstrap(200, seed=4)).to_json(("a", "b", "c"))))
    intervals = written["intervals"]
    assert [intervals.pop(name) for name in ("method", "level", "draws", "seed")] == [
        "percentile bootstrap over images",
        0.95,
        200,
        4,
    ]
    assert list(intervals) == ["top1", "top5", "mean_class_accuracy", "nll", "ece", "brier"]
    for name in ("top1", "mean_class_accuracy", "nll", "brier"):
        low, high = intervals[name]
        assert low < written[name] < high
    assert len(written["calibration"]) == 15
    assert sum(one["images"] for one in written["calibration"]) == 50


def test_each_labelled_image_counts_once_and_what_does_not_decode_is_left_out(
    datasets: ModuleType, world: World, tmp_path: Path
):
    manifest = datasets.write_dataset(tmp_path / "d", [25, 5], broken=[4, 27], withdrawn=[10])
    found = evaluate_split(logits_of, Part(manifest, "train"), VIEW, world, workers=0, chunk=8)
    samples = [number for number in range(30) if number not in (4, 10, 27)]
    assert (found.images, found.undecodable) == (27, 2)
    assert found.predictions.samples.tolist() == samples
    assert found.predictions.labels.tolist() == [number % 10 for number in samples]
    assert found.predictions.right.tolist() == [number % 3 != 0 for number in samples]
    assert found.top1 == sum(number % 3 != 0 for number in samples) / 27


def test_a_share_of_a_split_and_classes_that_the_model_numbers_otherwise(
    datasets: ModuleType, world: World, tmp_path: Path
):
    manifest = datasets.write_dataset(tmp_path / "d", [30])
    numbers = np.arange(10)[::-1].copy()
    found = evaluate_split(
        lambda images: logits_of(images).flip(1),
        Part(manifest, "train"),
        VIEW,
        world,
        workers=0,
        samples=np.array([1, 3, 5, 29]),
        class_numbers=numbers,
    )
    assert found.predictions.samples.tolist() == [1, 3, 5, 29]
    assert found.predictions.labels.tolist() == [8, 6, 4, 0]
    assert found.predictions.right.tolist() == [True, False, True, True]


def test_nothing_to_evaluate_is_said(datasets: ModuleType, world: World, tmp_path: Path):
    part = Part(datasets.write_dataset(tmp_path / "d", [4], broken=[1, 2]), "train")
    with pytest.raises(ValueError, match=r"d \[train\]: none of 2 images decodes; see: python data_pipeline/survey.py"):
        evaluate_split(logits_of, part, VIEW, world, workers=0, samples=np.array([1, 2]))
    with pytest.raises(ValueError, match=r"d \[train\]: no image has a label; name another split"):
        evaluate_split(logits_of, part, VIEW, world, workers=0, samples=np.array([], np.int64))
    whole = Part(datasets.write_dataset(tmp_path / "e", [4]), "train")
    with pytest.raises(ValueError, match=r"e \[train\]: expected finite logits, got others for 4 of 4 images"):
        evaluate_split(lambda images: logits_of(images) * math.nan, whole, VIEW, world, workers=0)
