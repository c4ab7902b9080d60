"""What is looked at while a masked autoencoder trains, for its loss does not say whether features are good:
reconstructions, and what features of held-out images are worth.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.augment import CenterCrop
from data_pipeline.chunks import chunks
from data_pipeline.manifest import DatasetError, Manifest
from data_pipeline.order import Integers
from data_pipeline.rows import Part
from pretrain.feature_spread import COLLAPSED, feature_deviation, rankme
from pretrain.figures import reconstruction_panel
from pretrain.health import extract, knn_predict
from pretrain.mae_config import MaeConfig
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.pixels import Normalization
from pretrain.ridge import fit_ridge
from pretrain.session import Session

_SHOWN = 8
_LOOKED_AT = 64  # for as many that decode


@dataclass(frozen=True)
class Monitor:
    """Evaluates a model on the held-out split, or on as many images of the training split where there is none."""

    config: MaeConfig
    manifest: Manifest
    normalization: Normalization
    noise_of: Callable[[Integers], Tensor]
    """Maps sample numbers (b,) to the noise (b, n) that hides their patches."""
    session: Session
    workers: int
    shown: Callable[[str, Path], None] | None = None
    """Is told of each panel: what it is called, and the PNG file. On rank 0 only."""

    def evaluate(self, model: MaskedAutoencoder, epoch: float) -> dict[str, float]:
        """Draw a panel, measure features, say it. Every process must call it, with a whole model.

        Features are the means of the patch tokens. `rankme` and `feature_deviation` need no labels; with them, and a
        held-out split, there are also `knn_top1` and `linear_top1`, learnt from the training split. Nothing of features
        that are not finite.
        """
        if self.session.world.rank == 0:
            self.draw(model, epoch)
        config, say = self.config, self.session.console.say
        values, labels = self._features(model, self._split, config.knn.most_held_out)
        results: dict[str, float] = {}
        when = f"epoch {_short(epoch)}"
        if len(values) > 1 and self._are_finite(values, self._split, when):
            results = self._accuracies(model, values, labels, when)
            results |= {"rankme": rankme(values), "feature_deviation": feature_deviation(values)}
            say(f"{when}  {_told(results, values.shape[1])}  on {self._told_split(len(values))}")
            if results["feature_deviation"] < COLLAPSED:
                say(
                    f"warning: {when}: features have collapsed: those of all images point nearly the same way "
                    f"(deviation {results['feature_deviation']:.2g}, below {COLLAPSED:g}); a lower --optimizer.base-lr "
                    "or a longer --optimizer.warmup-epochs may help"
                )
        return results

    def draw(self, model: MaskedAutoencoder, epoch: float) -> Path:
        """figures/reconstruction-epoch-*.png: the same images under the same masks every time; returns its path.

        Raises:
            DatasetError: no image decodes.
        """
        run, split = self.session.run, self._split
        images, samples = self._first_images(split)
        path = run.figures / f"reconstruction-epoch-{epoch:07.1f}.png"
        reconstruction_panel(
            path,
            model,
            images.to(self.session.world.device),
            self.noise_of(samples),
            self.normalization,
            title=f"{self.manifest.folder.name} [{split}], epoch {_short(epoch)}",
            what="held-out images" if self._is_held_out else "training images",
            guard=run.guard,
        )
        if self.shown is not None:
            self.shown("reconstruction", path)
        return path

    @property
    def _is_held_out(self) -> bool:
        return self.config.held_out in self.manifest.splits and self.config.held_out != self.config.split

    @property
    def _split(self) -> str:
        return self.config.held_out if self._is_held_out else self.config.split

    @property
    def _view(self) -> CenterCrop:
        return CenterCrop(self.config.encoder.image_size)

    def _told_split(self, count: int) -> str:
        if self._is_held_out:
            return self._split
        return f"{count:,} training images, for there is no split {self.config.held_out} to hold out"

    def _accuracies(self, model: MaskedAutoencoder, queries: Tensor, expected: Tensor, when: str) -> dict[str, float]:
        """Top-1 of classifiers learnt from the training split; nothing without labels in both splits."""
        knn, split = self.config.knn, self.config.split
        known = expected >= 0
        if not self._is_held_out or not known.any() or not any(self.manifest.split(split).class_counts):
            return {}
        values, labels = self._features(model, split, knn.most_train)
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

    def _features(self, model: MaskedAutoencoder, split: str, most: int) -> tuple[Tensor, Tensor]:
        world = self.session.world

        def features(images: Tensor) -> Tensor:
            with world.autocast():
                return model.features(self.normalization.normalize(images)).mean

        samples = self.manifest.split(split).members(most)
        with torch.no_grad():
            return extract(
                features, Part(self.manifest, split), self._view, world, samples=samples, workers=self.workers
            )

    def _first_images(self, split: str) -> tuple[Tensor, Integers]:
        """The first images that decode, as stored, and their numbers."""
        part, samples = Part(self.manifest, split), self.manifest.split(split).members(_LOOKED_AT)
        images, numbers = [], []
        for chunk in chunks(part, self._view, _SHOWN, samples=samples):
            images.append(chunk.images[chunk.valid])
            numbers.append(chunk.samples[chunk.valid])
            if sum(map(len, numbers)) >= _SHOWN:
                break
        found = torch.cat(numbers)[:_SHOWN]
        if len(found) == 0:
            raise DatasetError(
                f"{self.manifest.folder} [{split}]: none of its first {len(samples)} images decodes; look at them: "
                f"python data_pipeline/survey.py preview --data {self.manifest.folder} --out sheet.png"
            )
        return torch.cat(images)[:_SHOWN], found.numpy()


def _told(results: dict[str, float], width: int) -> str:
    """`k-NN 43.4 %  linear 51.0 %  rankme 37.2 of 192  deviation 0.81`; the first two where they are there."""
    names = {"k-NN": "knn_top1", "linear": "linear_top1"}
    shares = [f"{told} {results[name]:.1%}".replace("%", " %") for told, name in names.items() if name in results]
    spread = [f"rankme {results['rankme']:.1f} of {width}", f"deviation {results['feature_deviation']:.2g}"]
    return "  ".join(shares + spread)


def _short(epoch: float) -> str:
    return f"{round(epoch, 2):g}"
