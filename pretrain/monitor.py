"""What features are worth while an encoder trains, which no loss without labels says: by neighbours, by a linear
classifier, and how much of their space they fill.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from data_pipeline.augment import CenterCrop
from data_pipeline.manifest import Manifest
from data_pipeline.rows import Part
from pretrain.feature_distill_config import FeatureDistillConfig
from pretrain.feature_spread import COLLAPSED, feature_deviation, rankme
from pretrain.health import extract, knn_predict
from pretrain.mae_config import MaeConfig
from pretrain.ridge import fit_ridge
from pretrain.session import Session

Features = Callable[[Tensor], Tensor]
"""Maps images (b, h, w, c) as stored, on the device, to (b, d)."""


@dataclass(frozen=True)
class Monitor:
    """Measures features on the held-out split, or on as many images of the training split where there is none."""

    config: MaeConfig | FeatureDistillConfig
    manifest: Manifest
    session: Session
    workers: int

    @property
    def is_held_out(self) -> bool:
        """Whether there are images that are not trained on."""
        return self.config.held_out in self.manifest.splits and self.config.held_out != self.config.split

    @property
    def split(self) -> str:
        """The split that is looked at."""
        return self.config.held_out if self.is_held_out else self.config.split

    @property
    def view(self) -> CenterCrop:
        """How it is looked at."""
        return CenterCrop(self.config.encoder.image_size)

    def measure(self, features: Features, epoch: float) -> dict[str, float]:
        """Measure features, and say it. Every process must call it.

        `rankme` and `feature_deviation` need no labels; with them, and a held-out split, there are also `knn_top1` and
        `linear_top1`, learnt from the training split. Nothing of features that are not finite.
        """
        config, say = self.config, self.session.console.say
        values, labels = self._extract(features, self.split, config.knn.most_held_out)
        results: dict[str, float] = {}
        when = f"epoch {short(epoch)}"
        if len(values) > 1 and self._are_finite(values, self.split, when):
            results = self._accuracies(features, values, labels, when)
            results |= {"rankme": rankme(values), "feature_deviation": feature_deviation(values)}
            say(f"{when}  {_told(results, values.shape[1])}  on {self._told_split(len(values))}")
            if results["feature_deviation"] < COLLAPSED:
                say(
                    f"warning: {when}: features have collapsed: those of all images point nearly the same way "
                    f"(deviation {results['feature_deviation']:.2g}, below {COLLAPSED:g}); a lower --optimizer.base-lr "
                    "or a longer --optimizer.warmup-epochs may help"
                )
        return results

    def _told_split(self, count: int) -> str:
        if self.is_held_out:
            return self.split
        return f"{count:,} training images, for there is no split {self.config.held_out} to hold out"

    def _accuracies(self, features: Features, queries: Tensor, expected: Tensor, when: str) -> dict[str, float]:
        """Top-1 of classifiers learnt from the training split; nothing without labels in both splits."""
        knn, split = self.config.knn, self.config.split
        known = expected >= 0
        if not self.is_held_out or not known.any() or not any(self.manifest.split(split).class_counts):
            return {}
        values, labels = self._extract(features, split, knn.most_train)
        values, labels = values[labels >= 0], labels[labels >= 0]
        if len(values) < 2 or not self._are_finite(values, split, when):
            return {}
        queries, expected = queries[known], expected[known]
        predictions = {
            "knn_top1": knn_predict(values, labels, queries, neighbours=knn.neighbours, temperature=knn.temperature),
            "linear_top1": fit_ridge(values, labels).predict(queries),
        }
        return {name: (classes == expected).double().mean().item() for name, classes in predictions.items()}

    def _are_finite(self, values: Tensor, split: str, when: str) -> bool:
        broken = len(values) - int(values.isfinite().all(dim=1).sum())
        if broken:
            self.session.console.say(
                f"warning: {when}: features of {broken:,} of {len(values):,} images of {split} are NaN or infinite, "
                "so nothing is measured on them"
            )
        return not broken

    def _extract(self, features: Features, split: str, most: int) -> tuple[Tensor, Tensor]:
        world = self.session.world

        def in_precision(images: Tensor) -> Tensor:
            with world.autocast():
                return features(images)

        samples = self.manifest.split(split).members(most)
        with torch.no_grad():
            return extract(
                in_precision, Part(self.manifest, split), self.view, world, samples=samples, workers=self.workers
            )


def _told(results: dict[str, float], width: int) -> str:
    """`k-NN 43.4 %  linear 51.0 %  rankme 37.2 of 192  deviation 0.81`; the first two where they are there."""
    names = {"k-NN": "knn_top1", "linear": "linear_top1"}
    shares = [f"{told} {results[name]:.1%}".replace("%", " %") for told, name in names.items() if name in results]
    spread = [f"rankme {results['rankme']:.1f} of {width}", f"deviation {results['feature_deviation']:.2g}"]
    return "  ".join(shares + spread)


def short(epoch: float) -> str:
    """An epoch as people are told it."""
    return f"{round(epoch, 2):g}"
