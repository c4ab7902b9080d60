"""How well a classifier does on a split: each image once, the same bits on any number of processes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.augment import View
from data_pipeline.chunks import Chunk
from data_pipeline.order import Integers
from data_pipeline.rows import Part
from data_pipeline.subset import read_labels
from pretrain.calibration import BINS, Calibration, bins_of, calibrate
from pretrain.evaluation_pass import each_once
from pretrain.intervals import Bootstrap, Counts, Interval, Statistics, summable
from pretrain.predictions import Predictions, join, predict
from pretrain.world import World

_WITH_INTERVALS = ("top1", "top5", "mean_class_accuracy", "nll", "ece", "brier")


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1] of the images evaluated; `nll` in nats; `confusion` counts (true class, predicted class).

    `mean_class_accuracy` is over the classes that occur. `undecodable` images are left out of everything. `bootstrap`
    says how the `intervals` of the figures of those names were drawn; None where they were not.
    """

    images: int
    undecodable: int
    top1: float
    top5: float
    mean_class_accuracy: float
    nll: float
    brier: float
    calibration: Calibration
    confusion: Int[Tensor, "classes classes"]
    predictions: Predictions
    bootstrap: Bootstrap | None = None
    intervals: dict[str, Interval] | None = None

    @property
    def ece(self) -> float:
        """Expected calibration error, in [0, 1]."""
        return self.calibration.ece

    def summary(self) -> dict[str, float]:
        """What a line of metrics.jsonl holds of it."""
        return {name: getattr(self, name) for name in ("top1", "top5", "mean_class_accuracy", "nll", "ece")}

    def with_intervals(self, bootstrap: Bootstrap) -> "Accuracy":
        """The same with intervals: a second or two for 50,000 images and 1,000 draws, so on one process, at the end."""
        found = bootstrap.intervals(_statistics(self.predictions), self.images)
        return replace(self, bootstrap=bootstrap, intervals=dict(zip(_WITH_INTERVALS, found, strict=True)))

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """What evaluation.json holds of it."""
        found: dict[str, Any] = {"images": self.images, "undecodable": self.undecodable}
        found |= {**self.summary(), "brier": self.brier}
        if self.bootstrap is not None and self.intervals is not None:
            found["intervals"] = self.bootstrap.to_json(self.intervals)
        found |= {"calibration": self.calibration.to_json(), "classes": list(classes)}
        counts = self.confusion.sum(dim=1).tolist()
        return {**found, "images_per_class": counts, "confusion": self.confusion.tolist()}


def measure(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], undecodable: int = 0) -> Accuracy:
    """The accuracy of predictions. Top-5 counts all where there are at most five classes.

    A class is among the five if fewer than five have a larger logit: of equal logits those of lower classes come first.

    Raises:
        ValueError: logits that are not finite.
    """
    return _sum_up(predict(np.arange(len(labels)), logits, labels), logits.shape[1], undecodable)


def evaluate_split(
    logits_of: Callable[[Tensor], Tensor],
    part: Part,
    view: View,
    world: World,
    *,
    workers: int,
    samples: Integers | None = None,
    class_numbers: NDArray[np.int64] | None = None,
    chunk: int = 256,
) -> Accuracy:
    """Evaluate on every image of a split that has a label. Every process must call it.

    Args:
        logits_of: maps uint8 images (b, h, w, c) on the device to (b, classes).
        part: the split.
        view: how its images are shown.
        world: the processes that share the work.
        workers: loader processes beside each of them.
        samples: sorted numbers, for a share of the split.
        class_numbers: the classifier's number of each class of the dataset; None where it is the same.
        chunk: images computed together; another number may round otherwise.

    Raises:
        ValueError: no image has a label, none decodes, or the logits are not finite.
    """
    said = f"{part.manifest.folder} [{part.split}]"
    labels = read_labels(part.manifest, part.split)
    chosen = np.flatnonzero(labels >= 0) if samples is None else samples[labels[samples] >= 0]
    if len(chosen) == 0:
        raise ValueError(f"{said}: no image has a label; name another split")

    def predictions_of(piece: Chunk, images: Tensor) -> tuple[Predictions, int]:
        logits = logits_of(images).float().cpu()[piece.valid]
        true = piece.labels[piece.valid]
        true = true if class_numbers is None else torch.from_numpy(class_numbers)[true]
        return predict(piece.samples[piece.valid].numpy(), logits, true), logits.shape[1]

    pieces = each_once(predictions_of, part, view, world, samples=chosen, workers=workers, chunk=chunk)
    predictions, classes = join([piece for piece, _ in pieces]), pieces[0][1]
    if len(predictions) == 0:
        raise ValueError(f"{said}: none of {len(chosen):,} images decodes; see: python data_pipeline/survey.py verify")
    try:
        return _sum_up(predictions, classes, undecodable=len(chosen) - len(predictions))
    except ValueError as error:
        raise ValueError(f"{said}: {error}") from error


def _sum_up(predictions: Predictions, classes: int, undecodable: int) -> Accuracy:
    bad = np.flatnonzero(~np.isfinite(predictions.nll))
    if len(bad):
        raise ValueError(
            f"expected finite logits, got others for {len(bad):,} of {len(predictions):,} images, the first of them "
            f"sample {predictions.samples[bad[0]]}; look at the weights, or compute in --precision fp32"
        )
    pairs = predictions.labels * classes + predictions.predicted
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    counts = confusion.sum(axis=1)
    present = counts > 0
    return Accuracy(
        images=len(predictions),
        undecodable=undecodable,
        top1=float(predictions.right.mean()),
        top5=float((predictions.ranks <= 5).mean()),
        mean_class_accuracy=float((confusion.diagonal()[present] / counts[present]).mean()),
        nll=float(predictions.nll.mean()),
        brier=float(predictions.brier.mean()),
        calibration=calibrate(predictions.confidence, predictions.right),
        confusion=torch.from_numpy(confusion),
        predictions=predictions,
    )


def _statistics(predictions: Predictions) -> Statistics:
    """The figures that have intervals, of resampled images. Which row is which image does not matter to a resampling:
    they are sorted by label, so that those of a class lie together.
    """
    rows = predictions.rows(np.argsort(predictions.labels, kind="stable"))
    starts = np.flatnonzero(np.diff(rows.labels, prepend=-1))
    right, in_five = rows.right.astype(np.int64), (rows.ranks <= 5).astype(np.float64)
    gaps = np.zeros((len(rows), BINS))  # between being right and confidence, in the column of the bin
    gaps[np.arange(len(rows)), bins_of(rows.confidence)] = right - rows.confidence
    values = summable(np.column_stack([right.astype(np.float64), in_five, rows.nll, rows.brier, gaps]))

    def statistics(counts: Counts) -> NDArray[np.float64]:
        top1, top5, nll, brier, *bins = (counts.astype(np.float64) @ values / len(rows)).T
        of_class = np.add.reduceat(counts, starts, axis=1)
        hits = np.add.reduceat(counts * right, starts, axis=1)
        # A class that a draw lacks takes no part in its mean, as one that the split lacks.
        shares = hits / np.maximum(of_class, 1)
        mean = shares.sum(axis=1) / (of_class > 0).sum(axis=1)
        return np.column_stack([top1, top5, mean, nll, np.abs(bins).sum(axis=0), brier])

    return statistics
