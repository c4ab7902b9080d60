"""What a run beside a teacher, or alone, refuses in the words of the command line; what may change on resume."""

import dataclasses
import re
from typing import Any

import pytest

from launch.settings import REQUIRED
from launch.strict_json import from_json, to_json
from pretrain.augment_config import MixingConfig
from pretrain.backbone_config import BackboneConfig
from pretrain.config import OptimizerConfig
from pretrain.distill_config import MAY_CHANGE_ON_RESUME, DistillConfig, OwnTeacherConfig
from pretrain.distillation_config import DistillationConfig
from pretrain.supervised_config import MAY_CHANGE_ON_RESUME as OF_ALL
from pretrain.teacher_cache_config import TeacherCacheConfig

ALONE: dict[str, Any] = {"teacher": "none", "distillation": DistillationConfig("none")}
UNMIXED: dict[str, Any] = {"mixing": MixingConfig(0.0, 0.0)}
KEPT: dict[str, Any] = {"cache_teacher": TeacherCacheConfig(views=2)}


def config(**options: Any) -> DistillConfig:
    encoder = BackboneConfig("vit_tiny_patch16_224")
    values: dict[str, Any] = {"epochs": 10.0, "batch_size": 8, "optimizer": OptimizerConfig(warmup_epochs=1.0)}
    return DistillConfig(encoder, **values | {"teacher": "t"} | options)


def own(**options: Any) -> dict[str, Any]:
    return {"teacher": "own", "own_teacher": OwnTeacherConfig(**options)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 0}, "--views expects a positive number, got 0"),
        ({"epochs": 0.0}, "--epochs expects a positive number, got 0.0"),
        (
            {"teacher": "none"},
            "--teacher none: nobody to learn from by --distillation.kind hard; pass --distillation.kind none as well, "
            "or give a --teacher",
        ),
        (
            {"distillation": DistillationConfig("none")},
            "--teacher t: would be asked for nothing by --distillation.kind none; pass --distillation.kind hard or "
            "soft, or --teacher none",
        ),
        (
            ALONE | {"unlabelled": True},
            "--unlabelled needs a teacher, whose judgement it is about; give --teacher",
        ),
        (
            ALONE | UNMIXED | KEPT,
            "--cache-teacher.views needs a teacher, whose judgement it is about; give --teacher",
        ),
        (
            ALONE | {"teacher_architecture": "resnet18"},
            "--teacher-architecture is that of --teacher; give both, or neither",
        ),
        (
            {"label_field": "tags"},
            "--label-field tags: a teacher's logits are of one class an image; drop --label-field, or pass --teacher "
            "none --distillation.kind none",
        ),
        (
            {"unlabelled": True, "balance": 0.5},
            "--unlabelled: images without a class cannot be balanced by it; drop --balance",
        ),
        (
            KEPT,
            "--cache-teacher.views keeps what a teacher says of single images, and mixed ones are new in every batch; "
            "pass --mixing.mixup 0 --mixing.cutmix 0, or let the teacher look on: --cache-teacher.views 0",
        ),
        (
            KEPT | UNMIXED | {"balance": 0.5},
            "--cache-teacher.views is for images with one place in an epoch each; drop --balance, or the cache",
        ),
        (
            KEPT | UNMIXED | {"views": 3},
            "--cache-teacher.views 2 is less than the 3 different views that an epoch shows of an image (--views); "
            "give at least 3",
        ),
        (
            own(epochs=0.5),
            "--own-teacher.optimizer.warmup-epochs 0.5 leaves nothing of the teacher's 0.5 epochs; pass less, such as "
            "0.025, or give it more: --own-teacher.epochs",
        ),
        (
            own() | {"epochs": 0.2, "views": 2, "optimizer": OptimizerConfig(warmup_epochs=0.0)},
            "--own-teacher.optimizer.warmup-epochs 0.5 leaves nothing of the teacher's 0.4 epochs",
        ),
        (
            own() | {"teacher_architecture": "resnet18"},
            "--teacher-architecture resnet18 is that of a file of weights, got --teacher own; drop it, or name what to "
            "train with --own-teacher.encoder.name",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        config(**options)


@pytest.mark.parametrize(("option", "value"), [("epochs", 0.0), ("batch_size", -8)])
def test_a_teacher_that_is_never_trained_is_refused(option: str, value: float):
    name = option.replace("_", "-")
    with pytest.raises(ValueError, match=rf"^--own-teacher\.{name} expects a positive number, got {value}$"):
        OwnTeacherConfig(**{option: value})


def test_what_goes_together():
    config(**KEPT, **UNMIXED, views=2, unlabelled=True, labels=3, validation=0.1)
    config(**ALONE, label_field="tags", balance=0.0, views=3)
    config(**own(epochs=0.6), unlabelled=True)
    config(teacher=REQUIRED)
    config(own_teacher=OwnTeacherConfig(epochs=0.1))  # which is not trained


def test_a_teacher_of_its_own_sees_as_many_views_as_its_student():
    assert config(**own(), views=3).own_teacher_epochs == 30
    assert config(**own(epochs=4.0), views=3).own_teacher_epochs == 4


def test_it_survives_json():
    full = config(**own(batch_size=4), data="d", out="r", views=2, teacher_architecture=None)
    assert from_json(DistillConfig, to_json(full), "config.json") == full


def test_defaults_are_those_of_deit_where_fine_tuning_has_others():
    found = config()
    assert (found.init, found.pool, found.head_std, found.layer_decay) == ("none", "own", 0.02, None)
    assert (found.initialization, found.interpolation, found.views) == ("timm", "timm", 1)


def test_what_may_change_on_resume_are_places_and_not_what_is_learnt():
    fields = {field.name for field in dataclasses.fields(DistillConfig)}
    kept = {f"cache_teacher.{field.name}" for field in dataclasses.fields(TeacherCacheConfig)}
    assert fields | kept > MAY_CHANGE_ON_RESUME
    of_this = MAY_CHANGE_ON_RESUME - OF_ALL
    assert of_this == {"teacher", "cache_teacher.folder"}
