"""Few images a class: nested draws by hash, one strength for all, and what a class has too few of."""

import io
import statistics

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from finetune.extraction import Features
from finetune.feature_probe_config import FewShotConfig
from finetune.few_shot import draw_few, probe_few_shot
from launch.console import Console

NAMES = ("cat", "dog", "eel", "fly")


def clouds(count: int, seed: int) -> Features:
    """Four classes around the same centres whatever the seed, with an offset that only centring takes away."""
    centres = torch.randn(4, 8, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    values = centres[labels] + 0.8 * torch.randn(count, 8, generator=generator)
    return Features(values + 30 * torch.rand(count, 1, generator=generator), labels)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.mark.parametrize("seed", [0, 1])
def test_draws_are_nested_even_and_their_own(seed: int):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [40, 11, 20]))
    for draw in range(3):
        before: set[int] = set()
        for count in (1, 2, 5, 11):
            chosen = draw_few(labels, count, seed=seed, draw=draw)
            assert np.bincount(labels[chosen]).tolist() == [count, count, 0, count]
            assert np.all(np.diff(chosen) > 0)
            assert before < set(chosen.tolist())
            before = set(chosen.tolist())
            assert chosen.tolist() == draw_few(labels, count, seed=seed, draw=draw).tolist()
    draws = {tuple(draw_few(labels, 5, seed=some, draw=draw)) for some in (0, 1) for draw in range(5)}
    assert len(draws) == 10


def test_it_is_scikit_learns_on_centred_features_of_length_one(stream: io.StringIO):
    train, held_out = clouds(80, 0), clouds(200, 1)
    config = FewShotConfig(shots=(3,), draws=2, strength=50.0)
    result = probe_few_shot(train, held_out, config, Console(stream=stream), classes=NAMES, seed=4)

    def prepared(features: Features) -> np.ndarray:
        values = features.values.double().numpy()
        values = values - values.mean(axis=1, keepdims=True)
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    (row,) = result["results"]
    for draw, top1 in enumerate(row["top1"]):
        chosen = draw_few(train.labels.numpy(), 3, seed=4, draw=draw)
        model = LogisticRegression(C=50.0, fit_intercept=False, max_iter=1000)
        model.fit(prepared(train)[chosen], train.labels.numpy()[chosen])
        assert top1 == np.mean(model.predict(prepared(held_out)) == held_out.labels.numpy())
        assert 0.3 < top1 < 1
    assert row["top1"][0] != row["top1"][1]


def test_mean_and_sample_deviation_over_draws(stream: io.StringIO):
    result = probe_few_shot(
        clouds(80, 0), clouds(50, 1), FewShotConfig(), Console(stream=stream), classes=NAMES, seed=0
    )
    assert (result["C"], result["draws"], result["classes"], result["held_out_images"]) == (4000.0, 5, 4, 50)
    assert [row["shots"] for row in result["results"]] == [1, 2, 5, 10]
    for row in result["results"]:
        assert row["train_images"] == 4 * row["shots"]
        assert len(row["top1"]) == 5
        assert row["mean"] == pytest.approx(sum(row["top1"]) / 5)
        assert row["deviation"] == pytest.approx(np.std(row["top1"], ddof=1))
        assert row["converged"]
    first = result["results"][0]
    told = f"few-shot by images a class: 1 {100 * first['mean']:.1f} ± {100 * first['deviation']:.1f}, 2 "
    assert stream.getvalue().splitlines()[-1].startswith(told)
    assert stream.getvalue().endswith(" % (5 draws)\n")
    alone = FewShotConfig(shots=(2,), draws=1)
    (row,) = probe_few_shot(clouds(80, 0), clouds(50, 1), alone, Console(rank=1), classes=NAMES, seed=0)["results"]
    assert row["deviation"] is None
    assert row["top1"] == result["results"][1]["top1"][:1]
    assert statistics.fmean(row["top1"]) == row["mean"]


def without(features: Features, label: int, keep: int) -> Features:
    """All but `keep` of a class are left out."""
    rows = [number for number, own in enumerate(features.labels.tolist()) if own != label]
    rows = sorted(rows + [number for number, own in enumerate(features.labels.tolist()) if own == label][:keep])
    return Features(features.values[rows], features.labels[rows])


def test_a_number_that_a_class_does_not_have_is_left_out_and_said(stream: io.StringIO):
    train = without(clouds(80, 0), 2, 4)
    result = probe_few_shot(train, clouds(40, 1), FewShotConfig(), Console(stream=stream), classes=NAMES, seed=0)
    assert [row["shots"] for row in result["results"]] == [1, 2]
    assert stream.getvalue().splitlines()[0] == "few-shot: without 5, 10 a class, for class 'eel' has 4 training images"
    config = FewShotConfig(shots=(5, 8))
    message = (
        r"few-shot: class 'eel' has 4 training images, fewer than each of --few-shot\.shots 5 8; give smaller ones, or "
        r"none: --few-shot\.shots"
    )
    with pytest.raises(ValueError, match=message):
        probe_few_shot(train, clouds(40, 1), config, Console(rank=1), classes=NAMES, seed=0)


def test_a_class_without_training_images_is_not_counted(stream: io.StringIO):
    train = without(clouds(80, 0), 2, 0)
    result = probe_few_shot(train, clouds(40, 1), FewShotConfig(), Console(stream=stream), classes=NAMES, seed=0)
    assert result["classes"] == 3
    assert [row["train_images"] for row in result["results"]] == [3, 6, 15, 30]
    only = Features(train.values[:3], torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"few-shot: training images of 1 classes, expected two; give a larger"):
        probe_few_shot(only, only, FewShotConfig(), Console(rank=1), classes=NAMES, seed=0)


def test_a_regression_that_has_not_converged_says_so(stream: io.StringIO):
    config = FewShotConfig(shots=(5,), draws=2, iterations=2)
    result = probe_few_shot(clouds(80, 0), clouds(40, 1), config, Console(stream=stream), classes=NAMES, seed=0)
    assert not result["results"][0]["converged"]
    assert stream.getvalue().endswith("not converged in 2 iterations: raise --few-shot.iterations\n")


def test_features_without_any_spread_are_no_error():
    flat = Features(torch.ones(8, 3), torch.arange(8) % 4)
    config = FewShotConfig(shots=(1,), draws=2)
    (row,) = probe_few_shot(flat, flat, config, Console(rank=1), classes=NAMES, seed=0)["results"]
    assert row["mean"] == 0.25
