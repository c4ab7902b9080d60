"""Linear layers on features that are computed once: many learning rates and several features, learnt side by side.

After the released evaluation of Oquab et al. 2023 (arXiv:2304.07193); `SweepConfig` says what differs.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from data_pipeline.randomness import Purpose, key, permutation
from finetune.extraction import Features
from finetune.feature_probe_config import SweepConfig
from finetune.feature_probes import fifth
from finetune.frozen_features import Choice
from launch.console import Console

_ROWS = 1024


class Layers:
    """One linear layer for each of r learning rates, on the same d features; all start alike.

    What they compute together is one matrix product: a layer is a piece of its columns.
    """

    def __init__(self, width: int, classes: int, rates: Float[Tensor, " r"], config: SweepConfig, seed: int) -> None:
        generator = torch.Generator().manual_seed(key(seed, Purpose.HEAD) >> 1)
        start = torch.empty(classes, width).normal_(std=config.head_std, generator=generator)
        self.rates = rates
        self.weight = start.to(rates.device).repeat(len(rates), 1, 1)  # (r, c, d)
        self.bias = torch.zeros(len(rates), classes, device=rates.device)
        self._decay = config.momentum
        self._momenta = torch.zeros_like(self.weight), torch.zeros_like(self.bias)

    def __call__(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b r c"]:
        """Logits of every layer."""
        return (features @ self.weight.flatten(0, 1).T + self.bias.flatten()).unflatten(1, self.bias.shape)

    def step(self, features: Float[Tensor, "b d"], labels: Int[Tensor, " b"], factor: float) -> None:
        """One step of SGD with momentum down each layer's mean cross-entropy, at `factor` x its learning rate."""
        slope = self(features).softmax(dim=2)
        slope[torch.arange(len(labels), device=labels.device), :, labels] -= 1  # of a row's loss by its logits
        slope /= len(labels)
        gradients = (slope.flatten(1).T @ features).unflatten(0, self.bias.shape), slope.sum(dim=0)
        for parameter, momentum, gradient in zip((self.weight, self.bias), self._momenta, gradients, strict=True):
            momentum.mul_(self._decay).add_(gradient)
            rates = self.rates.reshape(-1, *[1] * (parameter.ndim - 1))
            parameter.sub_(momentum * rates * factor)

    def right(self, features: Float[Tensor, "b d"], labels: Int[Tensor, " b"]) -> Int64[Tensor, " r"]:
        """How many rows each layer names rightly; none by logits that are not finite."""
        logits = self(features)
        is_right = (logits.argmax(dim=2) == labels[:, None]) & logits.isfinite().all(dim=2)
        return is_right.sum(dim=0)


@dataclass(frozen=True)
class Lesson:
    """What is learnt: some rows of features, looked at as each choice says, at learning rates of a batch of 256."""

    features: Features
    rows: Int64[Tensor, " n"]
    choices: Sequence[Choice]
    base_lrs: Sequence[float]
    classes: int


def train_layers(
    lesson: Lesson, config: SweepConfig, console: Console, *, seed: int, device: torch.device
) -> list[Layers]:
    """Layers of every choice after all iterations; all see the same batches, whose rows are read once for them all."""
    values, labels = lesson.features
    rates = torch.tensor(lesson.base_lrs, device=device) * (config.batch_size / 256)
    widths = [values[:0, choice.columns].shape[1] for choice in lesson.choices]
    layers = [Layers(width, lesson.classes, rates, config, seed) for width in widths]
    count = len(layers) * len(rates)
    what = f"{count} linear layers" if count > 1 else "the best of them"
    with console.progress(config.iterations, unit="steps", label=what) as progress:
        for step, batch in enumerate(batches(len(lesson.rows), config.batch_size, config.iterations, seed)):
            factor = (1 + math.cos(math.pi * step / config.iterations)) / 2
            rows = lesson.rows[batch]
            seen, true = values[rows].to(device), labels[rows].to(device)
            for choice, some in zip(lesson.choices, layers, strict=True):
                some.step(seen[:, choice.columns], true, factor)
            progress.advance()
    return layers


def probe_by_sweep(
    train: Features,
    held_out: Features,
    choices: Sequence[Choice],
    config: SweepConfig,
    console: Console,
    *,
    seed: int,
    device: torch.device,
) -> dict[str, Any]:
    """Share of the held-out images that the best layer names rightly, and the whole sweep: what probe.json says of it.

    Best is the one, of equals the first, that does best on a fifth of the training images when learnt from the others;
    then it learns from all of them. The held-out images choose nothing.

    Raises:
        ValueError: too few training images.
    """
    labels = train.labels.numpy()
    chosen = fifth(labels, seed)
    everything = np.arange(len(labels))
    others = np.setdiff1d(everything, chosen)
    if len(chosen) == 0 or len(np.unique(labels[others])) < 2:
        raise ValueError(
            f"linear layers: {len(labels)} training images of {len(np.unique(labels))} classes are too few, expected "
            "two classes without the fifth that chooses among the layers; give a larger --split"
        )
    lesson = Lesson(train, torch.from_numpy(others), choices, config.base_lrs, int(labels.max()) + 1)
    swept = train_layers(lesson, config, console, seed=seed, device=device)
    sweep = [
        {"features": choice.name, "base_lr": rate, "top1": share}
        for choice, layers in zip(choices, swept, strict=True)
        for rate, share in zip(
            config.base_lrs, _shares(layers, train.of(choice), torch.from_numpy(chosen)), strict=True
        )
    ]
    best = max(sweep, key=lambda row: row["top1"])
    (choice,) = (choice for choice in choices if choice.name == best["features"])
    alone = replace(lesson, rows=torch.from_numpy(everything), choices=[choice], base_lrs=[best["base_lr"]])
    (layers,) = train_layers(alone, config, console, seed=seed, device=device)
    (top1,) = _shares(layers, held_out.of(choice), torch.arange(len(held_out.labels)))
    console.say(f"linear {100 * top1:.1f} % (SGD, {choice.name}, base_lr = {best['base_lr']:g}, of {len(sweep)} tried)")
    return {
        "method": "SGD sweep",
        "features": choice.name,
        "base_lr": best["base_lr"],
        "steps": config.iterations,
        "batch_size": config.batch_size,
        "sweep": sweep,
        "train_images": len(labels),
        "held_out_images": len(held_out.labels),
        "top1": top1,
    }


def batches(samples: int, size: int, count: int, seed: int) -> Iterator[Int64[Tensor, " b"]]:
    """Numbers of the samples of each batch: one epoch after another, each sample once in each, in an order of its own.

    A batch may hold the end of one epoch and the start of the next.
    """
    waiting, epoch = np.empty(0, np.int64), 0
    for _ in range(count):
        while len(waiting) < size:
            waiting = np.concatenate([waiting, permutation(key(seed, Purpose.HEAD, epoch), samples)])
            epoch += 1
        yield torch.from_numpy(waiting[:size])
        waiting = waiting[size:]


def _shares(layers: Layers, features: Features, rows: Int64[Tensor, " n"]) -> list[float]:
    """Share of these rows that each layer names rightly."""
    device = layers.rates.device
    right = torch.zeros(len(layers.rates), dtype=torch.int64)
    for some in rows.split(_ROWS):
        right += layers.right(features.values[some].to(device), features.labels[some].to(device)).cpu()
    return (right.double() / len(rows)).tolist()
