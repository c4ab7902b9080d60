"""Panels of reconstructions of the same images under the same masks, as a masked autoencoder trains."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.chunks import chunks
from data_pipeline.manifest import DatasetError
from data_pipeline.order import Integers
from data_pipeline.rows import Part
from pretrain.figures import reconstruction_panel
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.monitor import Monitor, short
from pretrain.pixels import Normalization

_SHOWN = 8
_LOOKED_AT = 64  # for as many that decode


@dataclass(frozen=True)
class ReconstructionPanels:
    """Draws images that a monitor looks at, in the run's figures/."""

    monitor: Monitor
    normalization: Normalization
    noise_of: Callable[[Integers], Tensor]
    """Maps sample numbers (b,) to the noise (b, n) that hides their patches."""
    shown: Callable[[str, Path], None] | None = None
    """Is told of each panel: what it is called, and the PNG file."""

    def draw(self, model: MaskedAutoencoder, epoch: float) -> Path:
        """figures/reconstruction-epoch-*.png: the same images under the same masks every time; returns its path.

        Raises:
            DatasetError: no image decodes.
        """
        monitor = self.monitor
        run, split = monitor.session.run, monitor.split
        images, samples = self._first_images(split)
        path = run.figures / f"reconstruction-epoch-{epoch:07.1f}.png"
        reconstruction_panel(
            path,
            model,
            images.to(monitor.session.world.device),
            self.noise_of(samples),
            self.normalization,
            title=f"{monitor.manifest.folder.name} [{split}], epoch {short(epoch)}",
            what="held-out images" if monitor.is_held_out else "training images",
            guard=run.guard,
        )
        if self.shown is not None:
            self.shown("reconstruction", path)
        return path

    def _first_images(self, split: str) -> tuple[Tensor, Integers]:
        """The first images that decode, as stored, and their numbers."""
        manifest = self.monitor.manifest
        part, samples = Part(manifest, split), manifest.split(split).members(_LOOKED_AT)
        images, numbers = [], []
        for chunk in chunks(part, self.monitor.view, _SHOWN, samples=samples):
            images.append(chunk.images[chunk.valid])
            numbers.append(chunk.samples[chunk.valid])
            if sum(map(len, numbers)) >= _SHOWN:
                break
        found = torch.cat(numbers)[:_SHOWN]
        if len(found) == 0:
            raise DatasetError(
                f"{manifest.folder} [{split}]: none of its first {len(samples)} images decodes; look at them: "
                f"python data_pipeline/survey.py preview --data {manifest.folder} --out sheet.png"
            )
        return torch.cat(images)[:_SHOWN], found.numpy()
