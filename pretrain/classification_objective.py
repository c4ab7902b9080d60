"""What a step on labels computes: erased and mixed images, smoothed targets, and the loss of each image."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from data_pipeline.stream import Batch
from pretrain.drop_path import DropPaths
from pretrain.erasing import erase
from pretrain.mixing import mix_batch
from pretrain.pixels import Normalization
from pretrain.supervised_config import SupervisedConfig
from pretrain.task import Task
from pretrain.training import Objective
from pretrain.world import World


@dataclass(frozen=True)
class Supervision:
    """Everything but the model that the objective depends on."""

    config: SupervisedConfig
    task: Task
    normalization: Normalization
    paths: DropPaths
    world: World
    erases_by_view: bool = False
    """Boxes are erased by what a row shows, dataset, sample and view, and not by its run position."""

    @property
    def objective(self) -> Objective:
        """For `fit`."""
        return Objective(self.inputs, self.loss)

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images (b, c, h, w), targets (b, classes), which rows have known ones (b,), and the noise of the drop paths
        (b, paths), on the device.
        """
        config, device = self.config, self.world.device
        images = self.pixels(batch)
        targets, known = self.task.targets(batch, config.mixing.label_smoothing)
        if config.mixing.is_on:
            known = known & known.roll(len(known) // 2)  # of a row and of its partner
        images, targets = mix_batch(
            images,
            targets.to(device, non_blocking=True),
            batch.positions,
            config.mixing,
            batch_size=config.batch_size,
            seed=config.seed,
        )
        noise = self.paths.draw(batch.positions, config.seed, device)
        return images, targets, known.to(device, non_blocking=True), noise

    def pixels(self, batch: Batch) -> Float[Tensor, "b c h w"]:
        """The images as the model sees them where nothing is mixed, on the device."""
        images = self.normalization.normalize(batch.images.to(self.world.device, non_blocking=True))
        keys = batch.view_keys() if self.erases_by_view else batch.positions
        return erase(images, keys, probability=self.config.augmentation.erasing, seed=self.config.seed)

    def loss(
        self, shared: nn.Module, images: Tensor, targets: Tensor, known: Tensor, noise: Tensor
    ) -> tuple[Float[Tensor, " b"], dict[str, Tensor]]:
        """The loss of each image, and nothing else to log."""
        self.paths.noise.values = noise
        return self.losses(shared(images), targets, known), {}

    def losses(
        self,
        logits: Float[Tensor, "b classes"],
        targets: Float[Tensor, "b classes"],
        known: Bool[Tensor, " b"],
    ) -> Float[Tensor, " b"]:
        """The loss of each image; 0 where no target is known."""
        logits = logits.float()
        if self.config.loss == "bce-any":
            targets = (targets > 0).float()
        if self.config.loss == "cross-entropy" and self.task.sets is None:
            found = nn.functional.cross_entropy(logits, targets, reduction="none")
        else:
            found = binary_cross_entropy(logits, targets)
        return torch.where(known, found, 0.0)


def binary_cross_entropy(
    logits: Float[Tensor, "b classes"], targets: Float[Tensor, "b classes"]
) -> Float[Tensor, " b"]:
    """Binary cross-entropy of every class, the mean over them. A new head makes every class as likely as not, so that
    the loss begins at log 2.
    """
    return nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)
