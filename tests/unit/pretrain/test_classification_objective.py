"""The loss of each image: of one class or of several labels, and of none where an image's labels are not known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from data_pipeline.batch import Batch
from data_pipeline.label_sets import LabelSets
from data_pipeline.manifest import Manifest
from data_pipeline.rows import Part, Substitution
from finetune.classify_config import ClassifyConfig
from pretrain.augment_config import AugmentationConfig, MixingConfig
from pretrain.backbone_config import BackboneConfig
from pretrain.classification_objective import Supervision, binary_cross_entropy
from pretrain.config import OptimizerConfig
from pretrain.drop_path import DropPaths
from pretrain.pixels import Normalization
from pretrain.task import Task, Watched
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


def test_any_share_of_a_mixed_image_counts_in_full():
    """By hand: of logits of 1 a class that is there costs log(1 + 1/e), one that is not log(1 + e)."""
    there, absent = math.log1p(math.exp(-1)), math.log1p(math.e)
    mixup = MixingConfig(mixup=0.8, cutmix=0.0, label_smoothing=0.0)
    own = supervision(replace(PLAIN, loss="bce-any", mixing=mixup), None)
    inputs = own.inputs(batch([0, 1, 0, 2]))
    assert ((inputs[1][1] > 0) & (inputs[1][1] < 1)).sum() == 2, "rows 1 and 3 are mixed with each other"
    losses, logged = own.loss(Ones(3), *inputs)
    one, two = (there + 2 * absent) / 3, (2 * there + absent) / 3
    torch.testing.assert_close(losses, torch.tensor([one, two, one, two]))
    assert logged == {}
    shares = replace(own, config=replace(own.config, loss="bce"))
    expected = inputs[1] * there + (1 - inputs[1]) * absent
    torch.testing.assert_close(shares.loss(Ones(3), *inputs)[0], expected.mean(dim=1))


def test_labels_of_several_count_in_full_as_well():
    mixup = MixingConfig(mixup=0.8, cutmix=0.0, label_smoothing=0.0)
    own = supervision(replace(PLAIN, loss="bce-any", mixing=mixup), SETS)
    losses, _ = own.loss(Ones(2), *own.inputs(batch([-1] * 4)))
    there, absent = math.log1p(math.exp(-1)), math.log1p(math.e)
    # Rows 0 and 2: a and b, and none; rows 1 and 3: b, and no field.
    half = (there + absent) / 2
    torch.testing.assert_close(losses, torch.tensor([there, half, there, half]))


@pytest.mark.parametrize("loss", ["cross-entropy", "bce", "bce-any"])
def test_what_is_half_known_costs_nothing_either(loss: str):
    mixing = MixingConfig(mixup=0.8, cutmix=0.0, label_smoothing=0.0)
    own = supervision(replace(PLAIN, loss=loss, mixing=mixing), None)
    inputs = own.inputs(batch([0, 1, -1, 2]))
    assert inputs[2].tolist() == [False, True, False, True], "rows 0 and 2 are partners"
    assert (inputs[1][[0, 2]].sum(dim=1) > 0).all()
    losses, _ = own.loss(Ones(3), *inputs)
    assert losses[[0, 2]].tolist() == [0, 0]
    assert (losses[[1, 3]] > 0).all()


def views(samples: list[int], slots: list[int], first: int) -> Batch:
    """Grey images at run positions from `first` on."""
    zeros = np.zeros(len(samples), np.int64)
    pixels = torch.full((len(samples), 1, 12, 12, 3), 128, dtype=torch.uint8)
    positions = np.arange(first, first + len(samples))
    return Batch((pixels,), torch.tensor(zeros), positions, zeros, np.asarray(samples), np.asarray(slots))


def test_a_view_is_erased_alike_in_any_batch():
    own = supervision(replace(PLAIN, augmentation=AugmentationConfig(erasing=1.0)), None)
    by_view = replace(own, erases_by_view=True)
    one = by_view.pixels(views([5, 9, 5, 2], [0, 1, 3, 0], first=0))
    other = by_view.pixels(views([7, 2, 5, 5, 9], [0, 0, 0, 3, 0], first=80))
    assert torch.equal(one[[0, 2, 3]], other[[2, 3, 1]])
    assert len({image.numpy().tobytes() for image in [*one, *other]}) == 6, "another slot is another view"
    assert torch.equal(by_view.inputs(views([5, 9, 5, 2], [0, 1, 3, 0], first=40))[0], one)
    by_position = own.pixels(views([5, 9, 5, 2], [0, 1, 3, 0], first=0))
    assert torch.equal(by_position, own.pixels(views([1, 1, 1, 1], [0, 0, 0, 0], first=0)))
    assert not torch.equal(by_position[0], own.pixels(views([5, 9], [0, 1], first=1))[0])


def test_an_image_without_its_class_counts_for_nothing():
    for loss in ("cross-entropy", "bce"):
        own = supervision(replace(PLAIN, loss=loss), None)
        inputs = own.inputs(batch([0, 1, -1, 2]))
        losses, _ = own.loss(Ones(3), *inputs)
        assert losses[2] == 0, loss
        assert (losses[[0, 1, 3]] > 0).all(), loss
