"""The loss of each image: of one class or of several labels, and of none where an image's labels are not known."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from data_pipeline.batch import Batch
from data_pipeline.label_sets import LabelSets
from data_pipeline.manifest import Manifest
from data_pipeline.rows import Part, Substitution
from finetune.backbone_config import BackboneConfig
from finetune.classification_objective import Supervision, binary_cross_entropy
from finetune.classify_config import ClassifyConfig
from finetune.task import Task, Watched
from pretrain.augment_config import AugmentationConfig, MixingConfig
from pretrain.config import OptimizerConfig
from pretrain.drop_path import DropPaths
from pretrain.pixels import Normalization
from pretrain.world import World

PLAIN = ClassifyConfig(
    encoder=BackboneConfig("vit_tiny_patch16_224", (2, 2), (1, 1)),
    epochs=2.0,
    batch_size=4,
    optimizer=OptimizerConfig(warmup_epochs=0.0),
    augmentation=AugmentationConfig(erasing=0.0),
    mixing=MixingConfig(mixup=0.0, cutmix=0.0, label_smoothing=0.2),
)
# Of four samples: both labels, the second, none, and no field.
SETS = LabelSets(
    "tags",
    ("a", "b"),
    np.asarray([0, 2, 3, 3, 3]),
    np.asarray([0, 1, 1], np.int32),
    np.asarray([True, True, True, False]),
)


def batch(labels: list[int], substitutions: tuple[Substitution, ...] = ()) -> Batch:
    rows = np.arange(4)
    pixels = torch.arange(4 * 12, dtype=torch.uint8).view(4, 1, 2, 2, 3)
    return Batch((pixels,), torch.tensor(labels), rows, np.zeros(4, np.int64), rows, rows * 0, substitutions)


def supervision(config: ClassifyConfig, sets: LabelSets | None) -> Supervision:
    part = Part(object.__new__(Manifest), "train")  # no image is read here
    watched = Watched(part, np.arange(0), sets, is_held_out=True)
    task = Task(part, None, "", ("a", "b") if sets else ("x", "y", "z"), sets, watched, watched)
    return Supervision(config, task, Normalization((0.5,) * 3, (0.5,) * 3), DropPaths(nn.Identity()), World("fp32"))


class Ones(nn.Module):
    """The same logits for any image."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(images), self.classes)


def test_binary_cross_entropy_by_hand():
    logits, targets = torch.tensor([[0.0, 0.0], [math.log(3), -math.log(3)]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    expected = torch.tensor([math.log(2), (math.log(4 / 3) + math.log(4)) / 2])
    torch.testing.assert_close(binary_cross_entropy(logits, targets), expected)


def test_several_labels_are_smoothed_each_by_itself():
    _, targets, known, _ = supervision(PLAIN, SETS).inputs(batch([-1] * 4))
    torch.testing.assert_close(targets, torch.tensor([[0.9, 0.9], [0.1, 0.9], [0.1, 0.1], [0.1, 0.1]]))
    assert known.tolist() == [True] * 4


def test_what_stands_in_for_an_image_has_no_labels_of_it():
    stands_in = (Substitution(0, 1, 2, "does not decode"),)
    own = supervision(PLAIN, SETS)
    inputs = own.inputs(batch([-1] * 4, stands_in))
    assert inputs[2].tolist() == [True, False, True, True]
    losses, _ = own.loss(Ones(2), *inputs)
    assert losses[1] == 0
    assert (losses[[0, 2, 3]] > 0).all()


def test_mixing_a_row_with_one_that_is_not_known_leaves_neither():
    config = replace(PLAIN, mixing=MixingConfig(mixup=0.8, cutmix=0.0))
    stands_in = (Substitution(0, 1, 2, "does not decode"),)
    _, _, known, _ = supervision(config, SETS).inputs(batch([-1] * 4, stands_in))
    assert known.tolist() == [True, False, True, False], "rows 1 and 3 are partners"


def test_an_image_without_its_class_counts_for_nothing():
    for loss in ("cross-entropy", "bce"):
        own = supervision(replace(PLAIN, loss=loss), None)
        inputs = own.inputs(batch([0, 1, -1, 2]))
        losses, _ = own.loss(Ones(3), *inputs)
        assert losses[2] == 0, loss
        assert (losses[[0, 1, 3]] > 0).all(), loss
