"""The few numbers that sum up a run."""

import math
import statistics
from dataclasses import dataclass
from typing import Any

from finetune.report_folders import Folder

# What an evaluation line may hold of accuracy, and how it is called where people read it.
ACCURACIES = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_class_accuracy": "mean over classes",
    "knn_top1": "k-NN top-1",
    "linear_top1": "linear probe top-1",
}


@dataclass(frozen=True)
class Facts:
    """Of a training run; None for what its metrics.jsonl does not tell."""

    steps: int | None
    loss: float | None
    best: tuple[str, float] | None
    """Which accuracy, and its largest value."""
    images_per_second: float | None
    """The median over the logged lines."""
    seconds: float | None
    """Training and evaluation, without starting up."""
    data_wait: float | None
    """Share of the time in training that was spent waiting for data."""
    teacher: float | None
    """That in which a teacher computed; None also where it was not asked."""
    memory: float | None
    """The peak, in bytes."""


def gather_facts(folder: Folder) -> Facts:
    """Sum up a run's metrics."""
    training, evaluations = folder.training, folder.evaluations
    losses = _numbers(training, "loss")
    rates = _numbers(training, "images_per_second")
    seconds = _training_seconds(folder)
    main = next((name for name in ("top1", "knn_top1") if _numbers(evaluations, name)), None)
    trained = sum(time for _, time in seconds)
    is_taught = bool(_numbers(training, "teacher"))
    return Facts(
        steps=max((int(line["step"]) for line in folder.metrics), default=None),
        loss=losses[-1] if losses else None,
        best=None if main is None else (ACCURACIES[main], max(_numbers(evaluations, main))),
        images_per_second=statistics.median(rates) if rates else None,
        seconds=trained + sum(_numbers(evaluations, "evaluation_seconds")) if trained else None,
        data_wait=_share(training, seconds, "data_wait") if trained else None,
        teacher=_share(training, seconds, "teacher") if trained and is_taught else None,
        memory=max(_numbers(training, "memory"), default=None),
    )


def number(value: Any) -> float:
    """A number of a metrics line as float; NaN for null, which is how NaN and infinities were written."""
    return float(value) if isinstance(value, int | float) else math.nan


def _numbers(lines: list[dict[str, Any]], name: str) -> list[float]:
    return [value for line in lines if math.isfinite(value := number(line.get(name)))]


def _share(training: list[dict[str, Any]], seconds: list[tuple[int, float]], name: str) -> float:
    """The mean of a share of the time, over all of it; a line without one counts as zero."""
    shares = (number(line.get(name)) for line in training)
    parts = [share * time for share, (_, time) in zip(shares, seconds, strict=True) if math.isfinite(share)]
    return sum(parts) / sum(time for _, time in seconds)


def _training_seconds(folder: Folder) -> list[tuple[int, float]]:
    """(step, seconds since the line before) of every training line: images over images a second."""
    size = number(folder.config.get("batch_size"))
    rows, before = [], 0
    for line in folder.training:
        step, rate = int(line["step"]), number(line.get("images_per_second"))
        seconds = (step - before) * size / rate if rate > 0 else math.nan
        rows.append((step, seconds if math.isfinite(seconds) else 0.0))
        before = step
    return rows
