"""A step of distillation: the teacher sees the student's pixels, each head learns from its own part of the loss."""

import copy
import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data_pipeline.batch import Batch
from data_pipeline.manifest import Manifest
from data_pipeline.rows import Part
from pretrain.architectures import create_backbone
from pretrain.augment_config import AugmentationConfig, MixingConfig
from pretrain.backbone_config import BackboneConfig
from pretrain.classification_objective import Supervision
from pretrain.config import OptimizerConfig
from pretrain.distill_config import DistillConfig
from pretrain.distillation_config import DistillationConfig
from pretrain.distillation_objective import Tuition
from pretrain.drop_path import DropPaths
from pretrain.pixels import Normalization
from pretrain.students import prepare_student
from pretrain.task import Task, Watched
from pretrain.world import World

CLASSES = 3
DISTILLED, PLAIN = (
    BackboneConfig(name, (8, 8), (4, 4), width=24, depth=2, heads=3)
    for name in ("deit_tiny_distilled_patch16_224", "vit_tiny_patch16_224")
)
MIXUP, CUTMIX, NO_MIXING = MixingConfig(0.8, 0.0), MixingConfig(0.0, 1.0), MixingConfig(0.0, 0.0)
HARD, SOFT = DistillationConfig("hard", alpha=0.3), DistillationConfig("soft", alpha=0.3, temperature=2.0)


@functools.cache
def create(encoder: BackboneConfig) -> nn.Module:
    return create_backbone(encoder, classes=CLASSES, pool="token", drop_path=0.4, seed=1)


class Case:
    """A student, its objective, and what its teacher was shown."""

    def __init__(
        self,
        how: DistillationConfig = HARD,
        mixing: MixingConfig = NO_MIXING,
        encoder: BackboneConfig = DISTILLED,
        labelled: list[int] | None = None,
        **options: Any,
    ) -> None:
        self.how = how
        config = DistillConfig(
            encoder,
            epochs=2.0,
            batch_size=6,
            optimizer=OptimizerConfig(warmup_epochs=0.0),
            teacher="t",
            distillation=how,
            mixing=mixing,
            augmentation=AugmentationConfig(erasing=0.5),
            **options,
        )
        self.model = copy.deepcopy(create(encoder)).train()
        prepare_student(self.model, how)
        part = Part(object.__new__(Manifest), "train")  # no image is read here
        watched = Watched(part, np.arange(0), None, is_held_out=True)
        chosen = None if labelled is None else np.asarray(labelled, np.int64)
        task = Task(part, None, "", ("x", "y", "z"), None, watched, watched, chosen)
        halves, paths = Normalization((0.5,) * 3, (0.25,) * 3), DropPaths(self.model)
        self.supervision = Supervision(config, task, halves, paths, World("fp32"))
        self.shown: list[tuple[Batch, Tensor]] = []
        self.tuition = Tuition(self.supervision, how, self.taught)

    def taught(self, rows: Batch, images: Tensor) -> Tensor:
        self.shown.append((rows, images))
        weights = torch.randn(images[0].numel(), CLASSES, generator=torch.Generator().manual_seed(5))
        return images.flatten(1) @ weights / 8

    def logits(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        self.supervision.paths.noise.values = noise
        found = self.model(images)
        return found if isinstance(found, tuple) else (found, found)

    def gradients(self, rows: Batch, **changed: Tensor) -> dict[str, Tensor]:
        """Of the mean loss, where `changed` stands in for some of the inputs."""
        names = ("images", "targets", "known", "noise", "taught")
        inputs = dict(zip(names, self.tuition.inputs(rows), strict=True)) | changed
        self.model.zero_grad()
        self.tuition.loss(self.model, *inputs.values())[0].mean().backward()
        return {name: value.grad for name, value in self.model.named_parameters() if value.grad is not None}


def batch(labels: tuple[int, ...] = (0, 1, 2, 2, 0, 1)) -> Batch:
    count = len(labels)
    pixels = torch.randint(0, 256, (count, 1, 8, 8, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    numbers = np.arange(count)
    return Batch((pixels,), torch.tensor(labels), numbers + 6, numbers * 0, numbers, numbers * 0)


@pytest.mark.parametrize("encoder", [DISTILLED, PLAIN], ids=lambda encoder: encoder.name)
@pytest.mark.parametrize("how", [HARD, SOFT], ids=lambda how: how.kind)
@pytest.mark.parametrize("mixing", [NO_MIXING, MIXUP, CUTMIX], ids=["unmixed", "mixup", "cutmix"])
def test_the_loss_is_the_formula_of_labels_and_teacher(
    encoder: BackboneConfig, how: DistillationConfig, mixing: MixingConfig
):
    case = Case(how, mixing, encoder)
    images, targets, known, noise, taught = case.tuition.inputs(batch())
    losses, logged = case.tuition.loss(case.model, images, targets, known, noise, taught)
    by_label, by_teacher = case.logits(images, noise)
    base = -(targets * by_label.log_softmax(1)).sum(1)
    if how.kind == "hard":
        judged = torch.stack([-row.log_softmax(0)[says.argmax()] for row, says in zip(by_teacher, taught, strict=True)])
    else:
        shares = (taught / 2).softmax(1)
        judged = 4 * (shares * (shares.log() - (by_teacher / 2).log_softmax(1))).sum(1)
    torch.testing.assert_close(losses, 0.7 * base + 0.3 * judged)
    torch.testing.assert_close(logged["teacher_loss"], judged.mean())
    agreed = sum(int(a.argmax() == b.argmax()) for a, b in zip(by_teacher, taught, strict=True))
    assert logged["agreement"].item() == pytest.approx(agreed / 6)
    assert set(logged) == {"teacher_loss", "agreement"}
    assert not any(value.requires_grad for value in logged.values())


@pytest.mark.parametrize("mixing", [NO_MIXING, MIXUP, CUTMIX], ids=["unmixed", "mixup", "cutmix"])
def test_the_teacher_sees_the_very_pixels_of_the_student(mixing: MixingConfig):
    case, rows = Case(mixing=mixing), batch()
    images, *_, taught = case.tuition.inputs(rows)
    ((shown_rows, shown),) = case.shown
    assert shown_rows is rows
    assert torch.equal(shown, images)
    assert torch.equal(taught, case.taught(rows, images))
    unmixed = case.supervision.pixels(rows)
    assert not torch.equal(unmixed, case.supervision.normalization.normalize(rows.images)), "some are erased"
    assert torch.equal(unmixed, images) == (mixing == NO_MIXING)
    for own, expected in zip(case.tuition.inputs(rows), case.supervision.inputs(rows), strict=False):
        assert torch.equal(own, expected)


@pytest.mark.parametrize("how", [HARD, SOFT], ids=lambda how: how.kind)
def test_each_head_learns_from_its_own_part_alone(how: DistillationConfig):
    case = Case(how)
    plain = case.gradients(batch())
    other_teacher = case.gradients(batch(), taught=-case.tuition.inputs(batch())[4])
    other_labels = case.gradients(batch((1, 2, 0, 0, 0, 0)))
    for name in ("weight", "bias"):
        first, second = f"head.{name}", f"head_dist.{name}"
        assert torch.equal(plain[first], other_teacher[first])
        assert not torch.allclose(plain[second], other_teacher[second])
        assert torch.equal(plain[second], other_labels[second])
        assert not torch.allclose(plain[first], other_labels[first])
    body = "blocks.0.mlp.fc1.weight"
    assert not torch.allclose(plain[body], other_teacher[body], atol=1e-6)
    assert not torch.allclose(plain[body], other_labels[body], atol=1e-6)


def test_shares_of_the_parts_reach_the_heads():
    """Of alpha 1 the labels' head learns nothing, and yet has a gradient, which processes must agree on."""
    small, whole = (Case(replace(HARD, alpha=alpha)).gradients(batch()) for alpha in (0.25, 1.0))
    torch.testing.assert_close(4 * small["head_dist.weight"], whole["head_dist.weight"])
    assert whole["head.weight"].count_nonzero() == 0
    assert small["head.weight"].count_nonzero() > 0


def test_rows_without_a_label_have_the_teachers_part_alone():
    case = Case(SOFT, labelled=[1, 4])
    inputs = case.tuition.inputs(batch((0, 1, 2, 2, -1, 1)))
    assert inputs[2].tolist() == [False, True, False, False, False, False], "4 is chosen, and has no label"
    losses, logged = case.tuition.loss(case.model, *inputs)
    by_label, by_teacher = case.logits(inputs[0], inputs[3])
    shares = (inputs[4] / 2).softmax(1)
    expected = 0.3 * 4 * (shares * (shares.log() - (by_teacher / 2).log_softmax(1))).sum(1)
    torch.testing.assert_close(logged["teacher_loss"], expected.mean() / 0.3)
    smoothed = torch.tensor([0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3])
    expected[1] += 0.7 * -(smoothed * by_label[1].log_softmax(0)).sum()
    torch.testing.assert_close(losses, expected)
    nothing = case.gradients(batch((-1,) * 6))
    assert nothing["head.weight"].count_nonzero() == 0
    assert nothing["head_dist.weight"].count_nonzero() > 0


@pytest.mark.parametrize("loss", ["cross-entropy", "bce"])
def test_half_of_a_label_is_none(loss: str):
    """Rows 0 and 3 are mixed with each other, and so on: of 2 and 5 the former has a label, of 0 and 3 both."""
    case = Case(HARD, MIXUP, labelled=[0, 2, 3], loss=loss)
    inputs = case.tuition.inputs(batch())
    assert inputs[2].tolist() == [True, False, False, True, False, False]
    losses, _ = case.tuition.loss(case.model, *inputs)
    judged = nn.functional.cross_entropy(case.logits(inputs[0], inputs[3])[1], inputs[4].argmax(1), reduction="none")
    torch.testing.assert_close(losses[[1, 2, 4, 5]], 0.3 * judged[[1, 2, 4, 5]])
    assert (losses[[0, 3]] > 0.3 * judged[[0, 3]]).all()
    assert case.supervision.losses(case.logits(inputs[0], inputs[3])[0], *inputs[1:3])[[1, 2, 4, 5]].eq(0).all()


def test_what_a_stand_in_shows_is_judged_as_well():
    """A batch from a cache of logits: the teacher is handed the batch, and need not look at pixels."""
    case, rows = Case(), batch()
    kept = torch.eye(CLASSES).repeat(2, 1)
    tuition = replace(case.tuition, taught=lambda found, _: kept[torch.from_numpy(found.samples)])
    assert torch.equal(tuition.inputs(rows)[4], kept)
    assert torch.equal(tuition.objective.inputs(rows)[4], kept)
