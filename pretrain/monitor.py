"""What is looked at while a masked autoencoder trains: reconstructions, and k-NN on held-out labels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from data_pipeline.augment import CenterCrop
from data_pipeline.chunks import chunks
from data_pipeline.manifest import Manifest
from data_pipeline.order import Integers
from data_pipeline.rows import Part
from pretrain.figures import reconstruction_panel
from pretrain.health import extract, knn_predict
from pretrain.mae_config import MaeConfig
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.pixels import Normalization
from pretrain.session import Session

_SHOWN = 8


@dataclass(frozen=True)
class Monitor:
    """Evaluates a model on the held-out split, or draws images of the training split where there is none."""

    config: MaeConfig
    manifest: Manifest
    model: MaskedAutoencoder
    normalization: Normalization
    noise_of: Callable[[Integers], Tensor]
    """Maps sample numbers (b,) to the noise (b, n) that hides their patches."""
    session: Session
    workers: int

    def evaluate(self, epoch: float) -> dict[str, float]:
        """Draw a panel, classify, say it. Every process must call it."""
        if self.session.world.rank == 0:
            self.draw(epoch)
        results = self.classify()
        for name, value in results.items():
            self.session.console.say(f"epoch {epoch:.4g}  {name} {value:.2%} on {self.config.held_out}")
        return results

    def draw(self, epoch: float) -> None:
        """figures/reconstruction-epoch-*.png: the same images under the same masks every time."""
        config, run = self.config, self.session.run
        split = config.held_out if config.held_out in self.manifest.splits else config.split
        samples = self.manifest.split(split).members(_SHOWN)
        chunk = next(chunks(Part(self.manifest, split), self._view, len(samples), samples=samples))
        reconstruction_panel(
            run.figures / f"reconstruction-epoch-{epoch:07.1f}.png",
            self.model,
            chunk.images.to(self.session.world.device),
            self.noise_of(samples),
            self.normalization,
            title=f"{self.manifest.folder.name} [{split}], epoch {epoch:.4g}",
            guard=run.guard,
        )

    def classify(self) -> dict[str, float]:
        """k-NN top-1 on the held-out split by the mean of the patch tokens; nothing without labels or such a split."""
        config, manifest = self.config, self.manifest
        if manifest.classes is None or config.held_out not in manifest.splits or config.held_out == config.split:
            return {}
        train, train_labels = self._features(config.split, config.knn.most_train)
        queries, labels = self._features(config.held_out, config.knn.most_held_out)
        predictions = knn_predict(
            train, train_labels, queries, neighbours=config.knn.neighbours, temperature=config.knn.temperature
        )
        return {"knn_top1": (predictions == labels).double().mean().item()}

    @property
    def _view(self) -> CenterCrop:
        return CenterCrop(self.config.encoder.image_size)

    def _features(self, split: str, most: int) -> tuple[Tensor, Tensor]:
        world = self.session.world

        def features(images: Tensor) -> Tensor:
            with world.accelerator.autocast():
                return self.model.features(self.normalization.normalize(images)).mean

        samples = self.manifest.split(split).members(most)
        with torch.no_grad():
            return extract(
                features, Part(self.manifest, split), self._view, world, samples=samples, workers=self.workers
            )
