"""What a config refuses, in the words of the command line; and which options may change on resume."""

import dataclasses
import re
from typing import Any

import pytest

from pretrain.config import EncoderConfig
from pretrain.feature_distill_config import MAY_CHANGE_ON_RESUME, FeatureDistillConfig
from pretrain.teacher_cache_config import TeacherCacheConfig

ENCODER = EncoderConfig("vit_tiny_patch16_224", (32, 32), (8, 8))


def config(**options: Any) -> FeatureDistillConfig:
    return FeatureDistillConfig(ENCODER, epochs=100.0, batch_size=64, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weight": -1.0}, "--class-weight expects zero or more, got -1.0"),
        (
            {"class_weight": 0.0, "patch_weight": 0.0},
            "--patch-weight expects more than 0 where --class-weight is 0, got",
        ),
        ({"class_weight": 0.0}, "--measured expects mean where --class-weight is 0, got class"),
        ({"views": 0}, "--views expects a positive number, got 0"),
        ({"drop_path": 1.0}, "--drop-path expects a probability below 1, got 1.0"),
        ({"average": 1.0}, "--average expects a decay in [0, 1), such as 0.9999, got 1.0"),
        ({"teacher_image_size": (0, 8)}, "--teacher-image-size expects two positive numbers of pixels, got (0, 8)"),
        (
            {"also": ("d",), "weights": (1,)},
            "--weights expects positive integers, one for --data and each of --also (2)",
        ),
        ({"max_world": 513}, "--max-world expects 1 to 512, got 513"),
        ({"workers": -1}, "--workers expects zero or more, got -1"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        config(**options)


def test_what_is_allowed():
    config(class_weight=0.0, measured="mean", average=0.0, drop_path=0.3, teacher_image_size=(16, 32), views=3)


@pytest.mark.parametrize(
    ("kept", "options", "message"),
    [
        (
            TeacherCacheConfig(2, classes=16),
            {},
            "--cache-teacher.classes 16 is of logits, and this recipe learns features, which have no classes and are "
            "kept whole; leave it out",
        ),
        (
            TeacherCacheConfig(2),
            {"also": ("d",)},
            "--cache-teacher.views keeps what a teacher says of the images of one dataset, got --also d; drop --also, "
            "or let the teacher look on: --cache-teacher.views 0",
        ),
        (
            TeacherCacheConfig(2),
            {"views": 3},
            "--cache-teacher.views 2 is less than the 3 different views that an epoch shows of an image (--views); "
            "give at least 3",
        ),
    ],
)
def test_what_a_cache_of_features_cannot_do_is_refused(kept: TeacherCacheConfig, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        config(cache_teacher=kept, **options)
    config(cache_teacher=TeacherCacheConfig(3), views=3)


def test_warming_up_leaves_something_of_the_run():
    with pytest.raises(ValueError, match="leaves nothing of the run's 10 epochs"):
        FeatureDistillConfig(ENCODER, epochs=10.0, batch_size=64)


def test_what_may_change_on_resume_are_options_and_not_what_is_learnt():
    names = {field.name for field in dataclasses.fields(FeatureDistillConfig)}
    assert names > MAY_CHANGE_ON_RESUME - {"cache_teacher.folder"}
    learnt = {
        "cache_teacher",
        "cache_teacher.views",
        "teacher_image_size",
        "class_weight",
        "patch_weight",
        "views",
        "batch_size",
        "seed",
    }
    assert not learnt & MAY_CHANGE_ON_RESUME
