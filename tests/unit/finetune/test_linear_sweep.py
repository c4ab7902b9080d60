"""Layers that learn side by side are those that torch trains one by one; a fifth of the training images chooses."""

import io

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data_pipeline.randomness import Purpose, key
from finetune.extraction import Features
from finetune.feature_probe_config import SweepConfig
from finetune.feature_probes import fifth
from finetune.frozen_features import Choice
from finetune.linear_sweep import Lesson, batches, probe_by_sweep, train_layers
from launch.console import Console

CPU = torch.device("cpu")
CHOICES = (Choice("noise", slice(6, 14)), Choice("signal", slice(0, 6)), Choice("both", slice(0, 14)))
CONFIG = SweepConfig(base_lrs=(0.001, 0.1, 1.0), iterations=60, batch_size=64)


def clouds(count: int, seed: int) -> Features:
    """Four classes around the same centres whatever the seed in the first 6 columns; noise in the others."""
    centres = torch.randn(4, 6, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    values = torch.randn(count, 14, generator=generator)
    values[:, :6] = centres[labels] + 0.5 * values[:, :6]
    return Features(values, labels)


def whole(features: Features) -> Tensor:
    return torch.arange(len(features.labels))


def one_by_one(features: Features, choice: Choice, base_lr: float, config: SweepConfig, seed: int) -> nn.Linear:
    """A layer alone, with torch's own SGD, schedule and gradients."""
    values = features.values[:, choice.columns]
    layer = nn.Linear(values.shape[1], 4)
    generator = torch.Generator().manual_seed(key(seed, Purpose.HEAD) >> 1)
    nn.init.normal_(layer.weight, std=config.head_std, generator=generator)
    nn.init.zeros_(layer.bias)
    rate = base_lr * config.batch_size / 256
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=config.momentum, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.iterations, eta_min=0)
    for rows in batches(len(values), config.batch_size, config.iterations, seed):
        optimizer.zero_grad()
        nn.functional.cross_entropy(layer(values[rows]), features.labels[rows]).backward()
        optimizer.step()
        schedule.step()
    return layer


def test_side_by_side_is_as_torch_trains_each_alone():
    features = clouds(150, 0)
    lesson = Lesson(features, whole(features), CHOICES, CONFIG.base_lrs, 4)
    together = train_layers(lesson, CONFIG, Console(rank=1), seed=3, device=CPU)
    for choice, layers in zip(CHOICES, together, strict=True):
        assert not torch.allclose(layers.weight[0], layers.weight[2], atol=0.05)
        for number, base_lr in enumerate(CONFIG.base_lrs):
            alone = one_by_one(features, choice, base_lr, CONFIG, 3)
            torch.testing.assert_close(layers.weight[number], alone.weight.detach(), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(layers.bias[number], alone.bias.detach(), rtol=1e-4, atol=1e-5)
            values = features.values[:, choice.columns]
            torch.testing.assert_close(layers(values)[:, number], alone(values).detach(), rtol=1e-4, atol=1e-4)
            right = (alone(values).argmax(dim=1) == features.labels).sum()
            assert layers.right(values, features.labels)[number] == right


def test_rows_that_are_left_out_teach_nothing():
    features = clouds(100, 1)
    rows = torch.arange(0, 100, 2)
    lesson = Lesson(features, rows, CHOICES[1:2], (0.1,), 4)
    cut = Features(features.values[rows], features.labels[rows])
    some = train_layers(lesson, CONFIG, Console(rank=1), seed=0, device=CPU)
    other = train_layers(Lesson(cut, whole(cut), CHOICES[1:2], (0.1,), 4), CONFIG, Console(rank=1), seed=0, device=CPU)
    assert torch.equal(some[0].weight, other[0].weight)


def test_batches_run_through_epochs_of_orders_of_their_own():
    drawn = torch.cat(list(batches(10, 4, 10, seed=0))).numpy()
    assert len(drawn) == 40
    epochs = drawn.reshape(4, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    assert torch.cat(list(batches(10, 4, 10, seed=1))).numpy().tolist() != drawn.tolist()
    (large,) = batches(3, 7, 1, seed=0)
    assert np.bincount(large.numpy(), minlength=3).tolist() in ([2, 2, 3], [2, 3, 2], [3, 2, 2])


def test_the_best_is_chosen_by_a_fifth_and_learnt_anew_from_all():
    stream = io.StringIO()
    train, held_out = clouds(300, 2), clouds(200, 3)
    result = probe_by_sweep(train, held_out, CHOICES, CONFIG, Console(stream=stream), seed=5, device=CPU)
    assert len(result["sweep"]) == 9
    chosen = fifth(train.labels.numpy(), 5)
    others = np.setdiff1d(np.arange(300), chosen)
    cut = Features(train.values[others], train.labels[others])
    for row, (choice, rate) in zip(
        result["sweep"], [(choice, rate) for choice in CHOICES for rate in CONFIG.base_lrs], strict=True
    ):
        assert (row["features"], row["base_lr"]) == (choice.name, rate)
        alone = one_by_one(cut, choice, rate, CONFIG, 5)
        predicted = alone(train.values[chosen][:, choice.columns]).argmax(dim=1)
        assert row["top1"] == pytest.approx((predicted == train.labels[chosen]).double().mean().item(), abs=0.02)
    best = max(result["sweep"], key=lambda row: row["top1"])
    assert (result["features"], result["base_lr"]) == (best["features"], best["base_lr"])
    assert best["features"] != "noise"
    (choice,) = (choice for choice in CHOICES if choice.name == best["features"])
    final = one_by_one(train, choice, best["base_lr"], CONFIG, 5)
    predicted = final(held_out.values[:, choice.columns]).argmax(dim=1)
    assert result["top1"] == pytest.approx((predicted == held_out.labels).double().mean().item(), abs=0.006)
    assert result["top1"] > 0.8
    counts = {"steps": 60, "batch_size": 64, "train_images": 300, "held_out_images": 200}
    assert {name: result[name] for name in counts} == counts
    assert result["method"] == "SGD sweep"
    said = f"linear {100 * result['top1']:.1f} % (SGD, {choice.name}, base_lr = {best['base_lr']:g}, of 9 tried)"
    assert stream.getvalue().splitlines()[-1] == said


def test_the_held_out_images_choose_nothing():
    train, held_out = clouds(120, 4), clouds(80, 5)
    wrong = held_out._replace(labels=(held_out.labels + 1) % 4)
    results = [
        probe_by_sweep(train, some, CHOICES, CONFIG, Console(rank=1), seed=0, device=CPU) for some in (held_out, wrong)
    ]
    assert results[0]["sweep"] == results[1]["sweep"]
    assert results[0]["top1"] > 0.5 > results[1]["top1"]


def test_a_rate_that_diverges_loses_and_harms_no_other():
    train, held_out = clouds(120, 4), clouds(80, 5)
    both, one = (SweepConfig(base_lrs=rates, iterations=60, batch_size=64) for rates in ((0.1, 1e39), (0.1,)))
    found, alone = (
        probe_by_sweep(train, held_out, CHOICES, config, Console(rank=1), seed=0, device=CPU) for config in (both, one)
    )
    assert [row["top1"] for row in found["sweep"][1::2]] == [0, 0, 0]
    assert found["sweep"][::2] == alone["sweep"]
    assert found["top1"] == alone["top1"] > 0.7


@pytest.mark.parametrize("count", [1, 5])
def test_too_few_classes_are_refused(count: int):
    train = Features(torch.rand(count, 14), torch.zeros(count, dtype=torch.int64))
    with pytest.raises(ValueError, match=rf"linear layers: {count} training images of 1 classes are too few"):
        probe_by_sweep(train, train, CHOICES, CONFIG, Console(rank=1), seed=0, device=CPU)
