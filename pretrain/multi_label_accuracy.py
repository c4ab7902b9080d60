"""How well a classifier of several labels an image does: the same bits on any number of processes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.augment import View
from data_pipeline.chunks import Chunk
from data_pipeline.order import Integers
from data_pipeline.rows import Part
from pretrain.evaluation_pass import each_once
from pretrain.intervals import Bootstrap, Counts, Interval, Statistics
from pretrain.world import World


@dataclass(frozen=True)
class MultiLabelAccuracy:
    """Shares in [0, 1]. A label is predicted where its probability is above .5, its logit above 0.

    mean_average_precision: over the classes that occur; average precision is the sum of precisions weighted by the
    gain in recall, without interpolation, of the ranking by logit (scikit-learn's `average_precision_score`).
    micro_f1: of all labels together. macro_f1: mean of the classes that occur. exact_match: share of the images of
    which every label is as it should be. undecodable: images that are left out of everything.
    average_precision: of each class, NaN where it does not occur. positives: images of each class. samples: the images'
    numbers within the split, of logits and targets.
    `bootstrap` says how the `interval` of the mean average precision was drawn; None where it was not.
    """

    images: int
    undecodable: int
    mean_average_precision: float
    micro_f1: float
    macro_f1: float
    exact_match: float
    average_precision: NDArray[np.float64]
    positives: NDArray[np.int64]
    samples: NDArray[np.int64]
    logits: Float[Tensor, "n classes"]
    targets: Bool[Tensor, "n classes"]
    bootstrap: Bootstrap | None = None
    interval: Interval | None = None

    def summary(self) -> dict[str, float]:
        """What a line of metrics.jsonl holds of it."""
        names = ("mean_average_precision", "micro_f1", "macro_f1", "exact_match")
        return {name: getattr(self, name) for name in names}

    def with_intervals(self, bootstrap: Bootstrap) -> "MultiLabelAccuracy":
        """The same with the interval of the mean average precision. 10,000 images of 20 classes take some ten seconds
        for 1,000 draws: on one process, at the end.
        """
        (interval,) = bootstrap.intervals(_statistics(self.logits, self.targets), self.images)
        return replace(self, bootstrap=bootstrap, interval=interval)

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """What evaluation.json holds of it."""
        found: dict[str, Any] = {"images": self.images, "undecodable": self.undecodable, **self.summary()}
        if self.bootstrap is not None and self.interval is not None:
            found["intervals"] = self.bootstrap.to_json({"mean_average_precision": self.interval})
        of_class = [None if np.isnan(value) else value for value in self.average_precision.tolist()]
        found |= {"classes": list(classes), "images_per_class": self.positives.tolist()}
        return {**found, "average_precision": of_class}


def measure_multi_label(
    logits: Float[Tensor, "n classes"],
    targets: Bool[Tensor, "n classes"],
    undecodable: int = 0,
    samples: Integers | None = None,
) -> MultiLabelAccuracy:
    """The accuracy of predictions, of which some image has some label; `samples` None: of images 0, 1, 2 and so on.

    Raises:
        ValueError: no image has a label, or logits that are not finite.
    """
    if not torch.isfinite(logits).all():
        raise ValueError("expected finite logits, got others; look at the weights, or compute in --precision fp32")
    truth, said = targets.numpy(), logits.numpy() > 0
    positives = truth.sum(axis=0)
    present = positives > 0
    if not present.any():
        raise ValueError(f"none of {len(logits):,} images has a label; evaluate a split that has labels")
    average = _average_precision(logits, targets)(np.ones((1, len(logits)), np.int64))[0]
    hits, claims = (truth & said).sum(axis=0), said.sum(axis=0)
    f1 = 2 * hits[present] / (positives + claims)[present]
    return MultiLabelAccuracy(
        images=len(logits),
        undecodable=undecodable,
        mean_average_precision=float(average[present].mean()),
        micro_f1=float(2 * hits.sum() / (positives + claims).sum()),
        macro_f1=float(f1.mean()),
        exact_match=float((truth == said).all(axis=1).mean()),
        average_precision=average,
        positives=positives,
        samples=np.arange(len(logits)) if samples is None else samples,
        logits=logits,
        targets=targets,
    )


def evaluate_multi_label_split(
    logits_of: Callable[[Tensor], Tensor],
    targets_of: Callable[[Integers], Tensor],
    part: Part,
    view: View,
    world: World,
    *,
    workers: int,
    samples: Integers | None = None,
    chunk: int = 256,
) -> MultiLabelAccuracy:
    """Evaluate on every image of a split. Every process must call it.

    Args:
        logits_of: maps uint8 images (b, h, w, c) on the device to (b, classes).
        targets_of: maps sample numbers (n,) to booleans (n, classes), on the CPU.
        part: the split.
        view: how its images are shown.
        world: the processes that share the work.
        workers: loader processes beside each of them.
        samples: sorted numbers, for a share of the split.
        chunk: images computed together; another number may round otherwise.

    Raises:
        ValueError: no image has a label, none decodes, or the logits are not finite.
    """
    said = f"{part.manifest.folder} [{part.split}]"
    chosen = part.manifest.split(part.split).members() if samples is None else samples

    def logits_and_samples(piece: Chunk, images: Tensor) -> tuple[Tensor, Tensor]:
        return logits_of(images).float().cpu()[piece.valid], piece.samples[piece.valid]

    pieces = each_once(logits_and_samples, part, view, world, samples=chosen, workers=workers, chunk=chunk)
    logits, shown = torch.cat([one for one, _ in pieces]), torch.cat([one for _, one in pieces])
    if len(shown) == 0:
        raise ValueError(f"{said}: none of {len(chosen):,} images decodes; see: python data_pipeline/survey.py verify")
    try:
        return measure_multi_label(logits, targets_of(shown.numpy()), len(chosen) - len(shown), shown.numpy())
    except ValueError as error:
        raise ValueError(f"{said}: {error}") from error


def _statistics(logits: Tensor, targets: Tensor) -> Statistics:
    average_precision = _average_precision(logits, targets)

    def statistics(counts: Counts) -> NDArray[np.float64]:
        found = average_precision(counts)
        occurring = (~np.isnan(found)).sum(axis=1)
        sums = np.nansum(found, axis=1)
        return np.where(occurring > 0, sums / np.maximum(occurring, 1), np.nan)[:, None]

    return statistics


def _average_precision(logits: Tensor, targets: Tensor) -> Statistics:
    """Of each class, of resampled images: (draws, classes); NaN where a draw lacks a class."""
    classes = [_Ranking.of(*column) for column in zip(logits.numpy().T, targets.numpy().T, strict=True)]

    def statistics(counts: Counts) -> NDArray[np.float64]:
        return np.column_stack([one.average_precision(counts) for one in classes])

    return statistics


@dataclass(frozen=True)
class _Ranking:
    """The images by falling logit of one class. Of the p images of that class: their places in this order, and those
    of the last image of the same logit: images of equal logits are found together, in no order among themselves.
    """

    order: NDArray[np.int64]
    places: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, logits: NDArray[np.float32], targets: NDArray[np.bool_]) -> "_Ranking":
        order = np.argsort(-logits, kind="stable")
        places = np.flatnonzero(targets[order])
        falling = -logits[order]
        return cls(order, places, np.searchsorted(falling, falling[places], side="right") - 1)

    def average_precision(self, counts: Counts) -> NDArray[np.float64]:
        """Of each draw: the mean precision at the places of its images of the class."""
        if len(self.places) == 0:
            return np.full(len(counts), np.nan)
        sorted_counts = counts[:, self.order]
        own = sorted_counts[:, self.places]  # (draws, n) -> (draws, p)
        found = np.cumsum(own, axis=1)
        # Of equal logits the last one's: as many as have a place up to the common end.
        found = found[:, np.searchsorted(self.places, self.ends, side="right") - 1]
        looked_at = np.cumsum(sorted_counts, axis=1)[:, self.ends]
        total = own.sum(axis=1)
        sums = (own * (found / np.maximum(looked_at, 1))).sum(axis=1)
        return np.where(total > 0, sums / np.maximum(total, 1), np.nan)
