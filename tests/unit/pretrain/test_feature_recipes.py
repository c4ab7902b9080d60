"""Recipes of feature distillation hold the numbers they cite, and name models that timm has."""

from dataclasses import replace

import pytest
import timm
from timm.models import get_pretrained_cfg

from launch.strict_json import from_json, to_json
from pretrain.distill_recipes import RECIPES as LOGITS
from pretrain.encoder import create_encoder
from pretrain.feature_distill_config import FeatureDistillConfig
from pretrain.feature_recipes import RECIPES
from pretrain.optimizer import peak_learning_rate
from pretrain.recipes import RECIPES as MAE


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_its_encoder_and_survives_json(name: str):
    config = replace(RECIPES[name].config, data="d", teacher="t", out="r")
    assert create_encoder(config.encoder).patch_embed.num_patches == config.encoder.patches
    assert from_json(FeatureDistillConfig, to_json(config), "config.json") == config
    outcome = RECIPES[name].outcome
    assert outcome.startswith(("measured: ", "published: ", "no published figure: "))
    assert outcome.endswith("not run here)") != outcome.startswith("measured: ")


@pytest.mark.parametrize("patch", [14, 16])
def test_imagenet_recipes_hold_the_numbers_of_the_released_code(patch: int):
    config = RECIPES[f"vit-s{patch}-features-in1k"].config
    assert (config.epochs * config.views, config.views, config.batch_size) == (pytest.approx(300), 3, 1024)
    assert peak_learning_rate(config.optimizer, config.batch_size) == pytest.approx(1e-3)
    assert config.optimizer.warmup_epochs * config.views == pytest.approx(5)
    assert (config.optimizer.min_lr, config.optimizer.weight_decay) == (1e-5, 0.05)
    assert (config.class_weight, config.patch_weight) == (1, 1)
    # The teacher's patches lie where the student's do, so that nothing is interpolated.
    name, _, tag = config.teacher.partition(".")
    assert config.teacher_image_size == config.encoder.image_size == (224, 224)
    assert config.encoder.patch_size == (patch, patch)
    assert f"patch{patch}_" in name
    assert tag
    stated = get_pretrained_cfg(config.teacher)
    assert stated is not None
    assert stated.tag == tag
    assert timm.is_model(name)


def test_the_student_of_digits_is_half_as_deep_as_its_teacher():
    student, teacher = RECIPES["digits-features"].config, MAE["digits"].config
    assert student.encoder == replace(teacher.encoder, depth=2)
    assert teacher.encoder.depth == 4
    assert student.augmentation.crop_scale == teacher.crop_scale


def test_no_name_means_two_recipes():
    assert not RECIPES.keys() & LOGITS.keys()
