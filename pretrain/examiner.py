"""What a fine-tuning run evaluates its model on, and how."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data_pipeline.augment import CenterCrop
from pretrain.accuracy import Accuracy, evaluate_split
from pretrain.multi_label_accuracy import MultiLabelAccuracy, evaluate_multi_label_split
from pretrain.pixels import Normalization
from pretrain.session import Session
from pretrain.supervised_config import SupervisedConfig
from pretrain.task import Task, Watched

Examined = Accuracy | MultiLabelAccuracy
"""What an evaluation comes to: of one label an image, or of several."""


@dataclass(frozen=True)
class Examiner:
    """Evaluates a model as the run does."""

    config: SupervisedConfig
    task: Task
    normalization: Normalization
    own: Session
    workers: int

    @torch.no_grad()
    def examine(self, model: nn.Module, watched: Watched) -> Examined:
        """Each of these images once; every process must call it."""
        config, world = self.config, self.own.world
        view = CenterCrop(config.encoder.size, config.evaluation_crop)

        def logits_of(images: Tensor) -> Tensor:
            with world.autocast():
                return model(self.normalization.normalize(images))

        part, samples = watched.part, watched.samples
        if watched.sets is None:
            return evaluate_split(logits_of, part, view, world, workers=self.workers, samples=samples)
        sets = watched.sets
        return evaluate_multi_label_split(
            logits_of,
            lambda numbers: torch.from_numpy(sets.targets(numbers)),
            part,
            view,
            world,
            workers=self.workers,
            samples=samples,
        )
