"""How well a classifier does on a split: each image once, the same bits on any number of processes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_pipeline.augment import View
from data_pipeline.rows import Part
from data_pipeline.subset import read_labels
from pretrain.health import extract
from pretrain.world import World


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1] of the images evaluated; `nll` in nats; `confusion` counts (true class, predicted class).

    `mean_class_accuracy` is over the classes that occur. `undecodable` images are left out of everything.
    """

    images: int
    undecodable: int
    top1: float
    top5: float
    mean_class_accuracy: float
    nll: float
    confusion: Int[Tensor, "classes classes"]

    def summary(self) -> dict[str, float]:
        """What a line of metrics.jsonl holds of it."""
        return {name: getattr(self, name) for name in ("top1", "top5", "mean_class_accuracy", "nll")}

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """What evaluation.json holds of it."""
        counts = self.confusion.sum(dim=1).tolist()
        return {
            "images": self.images,
            "undecodable": self.undecodable,
            **self.summary(),
            "classes": list(classes),
            "images_per_class": counts,
            "confusion": self.confusion.tolist(),
        }


def measure(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], undecodable: int = 0) -> Accuracy:
    """The accuracy of predictions. Top-5 counts all where there are at most five classes.

    A class is among the five if fewer than five have a larger logit: of equal logits those of lower classes come first.
    """
    classes = logits.shape[1]
    order = logits.argsort(dim=1, descending=True, stable=True)
    hits = order == labels[:, None]
    confusion = torch.bincount(labels * classes + order[:, 0], minlength=classes**2).view(classes, classes)
    counts, right = confusion.sum(dim=1), confusion.diagonal()
    present = counts > 0
    nll = -logits.double().log_softmax(dim=1).gather(1, labels[:, None])
    return Accuracy(
        images=len(labels),
        undecodable=undecodable,
        top1=hits[:, 0].double().mean().item(),
        top5=hits[:, :5].any(dim=1).double().mean().item(),
        mean_class_accuracy=(right[present] / counts[present]).double().mean().item(),
        nll=nll.mean().item(),
        confusion=confusion,
    )


def evaluate_split(
    logits_of: Callable[[Tensor], Tensor], part: Part, view: View, world: World, *, workers: int
) -> Accuracy:
    """Evaluate on every image of a split that has a label. Every process must call it.

    `logits_of` maps uint8 images (b, h, w, c) on the device to (b, classes).

    Raises:
        ValueError: no image has a label.
    """
    samples = np.flatnonzero(read_labels(part.manifest, part.split) >= 0)
    if len(samples) == 0:
        raise ValueError(f"{part.manifest.folder} [{part.split}]: no image has a label; name another split: --held-out")
    logits, labels = extract(logits_of, part, view, world, samples=samples, workers=workers)
    return measure(logits, labels, undecodable=len(samples) - len(labels))
