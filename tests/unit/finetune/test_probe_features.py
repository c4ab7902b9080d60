"""Logistic regression on features in memory: what it says, and what may not move it."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from finetune.extraction import Features
from finetune.feature_probe_config import LogisticConfig
from finetune.feature_probes import fifth, probe_linearly
from launch.console import Console

CONFIG = LogisticConfig()


def clouds(count: int, seed: int, *, classes: int = 4, spread: float = 0.5) -> Features:
    """Classes around the same centres whatever the seed; the first feature is large, the last constant."""
    centres = torch.randn(classes, 6, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    values = centres[labels] + spread * torch.randn(count, 6, generator=generator)
    values[:, 0] = 1000 * values[:, 0] + 1e4
    values[:, 5] = 7.0
    return Features(values, labels)


@pytest.fixture
def heard() -> tuple[Console, Callable[[], list[str]]]:
    """A console, and the lines that it was told."""
    stream = io.StringIO()
    return Console(stream=stream), lambda: stream.getvalue().splitlines()


def test_it_measures_and_says_so(heard: tuple[Console, Callable[[], list[str]]]):
    console, lines = heard
    linear = probe_linearly(clouds(200, 0), clouds(100, 1), CONFIG, console, seed=0)
    assert (linear["train_images"], linear["held_out_images"]) == (200, 100)
    assert linear["method"] == "logistic regression"
    assert linear["top1"] > 0.7
    assert linear["converged"]
    assert [row["C"] for row in linear["sweep"]] == list(CONFIG.strengths)
    assert lines()[-1] == f"linear {100 * linear['top1']:.1f} % (logistic regression, C = {linear['C']:g})"
    assert "logistic regression 6/6" in lines()[0]


def test_the_regression_is_scikit_learns_on_standardised_features(heard: tuple[Console, Callable[[], list[str]]]):
    train, held_out = clouds(150, 2, spread=2), clouds(400, 3, spread=2)
    result = probe_linearly(train, held_out, LogisticConfig(strengths=(0.3,)), heard[0], seed=0)
    values = train.values.double().numpy()
    mean, std = values.mean(axis=0), values.std(axis=0)
    std[std == 0] = 1
    model = LogisticRegression(C=0.3, max_iter=1000).fit((values - mean) / std, train.labels.numpy())
    predicted = model.predict((held_out.values.double().numpy() - mean) / std)
    assert result["top1"] == (predicted == held_out.labels.numpy()).mean()
    assert 0.3 < result["top1"] < 0.95


def test_the_held_out_images_choose_nothing(heard: tuple[Console, Callable[[], list[str]]]):
    train, held_out = clouds(150, 4, spread=2), clouds(100, 5)
    wrong = held_out._replace(labels=(held_out.labels + 1) % 4)
    results = [probe_linearly(train, some, LogisticConfig(), heard[0], seed=0) for some in (held_out, wrong)]
    assert results[0]["sweep"] == results[1]["sweep"]
    assert results[0]["C"] == results[1]["C"]
    assert results[0]["top1"] > 0.5 > results[1]["top1"]
    best = max(row["top1"] for row in results[0]["sweep"])
    assert results[0]["C"] == min(row["C"] for row in results[0]["sweep"] if row["top1"] == best)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_fifth_holds_a_fifth_of_every_class(seed: int):
    labels = np.repeat([0, 1, 2, 3], [500, 50, 13, 1])
    chosen = fifth(labels, seed)
    assert len(chosen) == 113
    assert np.all(np.diff(chosen) > 0)
    counts = np.bincount(labels[chosen], minlength=4)
    assert np.all(np.abs(counts - np.array([500, 50, 13, 1]) / 5) < 1)
    assert fifth(labels, seed).tolist() == chosen.tolist()
    assert fifth(labels, seed + 7).tolist() != chosen.tolist()


def test_a_regression_that_has_not_converged_says_so(heard: tuple[Console, Callable[[], list[str]]]):
    console, lines = heard
    result = probe_linearly(clouds(100, 6), clouds(10, 7), LogisticConfig((10.0,), iterations=2), console, seed=0)
    assert not result["converged"]
    assert "C = 10; not converged in 2 iterations: raise --logistic.iterations)" in lines()[-1]


def test_classes_that_training_lacks_are_wrong_and_no_error(heard: tuple[Console, Callable[[], list[str]]]):
    train, held_out = clouds(200, 8, spread=0.1), clouds(40, 9, spread=0.1)
    strange = Features(held_out.values, held_out.labels.where(held_out.labels != 1, 17))
    result = probe_linearly(train, strange, CONFIG, heard[0], seed=0)
    assert result["top1"] == (held_out.labels != 1).double().mean().item()


@pytest.mark.parametrize("count", [1, 5])
def test_too_few_classes_are_refused(heard: tuple[Console, Callable[[], list[str]]], count: int):
    train = Features(torch.rand(count, 3), torch.zeros(count, dtype=torch.int64))
    with pytest.raises(ValueError, match=rf"logistic regression: {count} training images of 1 classes are too few"):
        probe_linearly(train, train, LogisticConfig(), heard[0], seed=0)
