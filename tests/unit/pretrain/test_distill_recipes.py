"""Recipes of distillation hold the numbers they cite, and name models that timm has."""

from dataclasses import replace

import pytest
import timm
import torch

from launch.settings import REQUIRED
from launch.strict_json import from_json, to_json
from pretrain.architectures import complete, create_backbone
from pretrain.backbone_config import BackboneConfig
from pretrain.distill_config import DistillConfig
from pretrain.distill_recipes import RECIPES, published_epochs
from pretrain.distillation_config import DistillationConfig
from pretrain.optimizer import peak_learning_rate
from pretrain.students import has_distillation_head


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json_and_says_what_came_of_it(name: str):
    config = replace(RECIPES[name].config, data="d", out="r", init="i", teacher="t", distillation=DistillationConfig())
    assert from_json(DistillConfig, to_json(config), "config.json") == config
    outcome = RECIPES[name].outcome
    assert outcome.startswith(("measured: ", "published: ", "no published figure: "))
    assert outcome.endswith("not run here)") != outcome.startswith("measured: ")


# Of the papers' tables and the released commands: model, pixels, patch; then the kind of distillation, or drop path and
# peak learning rate.
DEIT = """
deit-ti-in1k           | deit_tiny_patch16_224            | 224 | 16 | none
deit-s-in1k            | deit_small_patch16_224           | 224 | 16 | none
deit-b-in1k            | deit_base_patch16_224            | 224 | 16 | none
deit-ti-distilled-in1k | deit_tiny_distilled_patch16_224  | 224 | 16 | hard
deit-s-distilled-in1k  | deit_small_distilled_patch16_224 | 224 | 16 | hard
deit-b-distilled-in1k  | deit_base_distilled_patch16_224  | 224 | 16 | hard
"""
DEIT3 = """
deit3-s-in1k           | deit3_small_patch16_224          | 224 | 16 | .05 | 4e-3
deit3-b-in1k           | deit3_base_patch16_224           | 192 | 16 | .2  | 3e-3
deit3-l-in1k           | deit3_large_patch16_224          | 192 | 16 | .45 | 3e-3
deit3-h-in1k           | deit3_huge_patch14_224           | 154 | 14 | .6  | 3e-3
"""


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


@pytest.mark.parametrize("row", rows(DEIT), ids=lambda row: row[0])
def test_deit_holds_the_papers_numbers(row: list[str]):
    name, model, pixels, patch, kind = row
    config = RECIPES[name].config
    assert_model(config.encoder, model, int(pixels), int(patch))
    assert (config.epochs, config.views, config.batch_size) == (pytest.approx(100), 3, 1024)
    assert peak_learning_rate(config.optimizer, config.batch_size) == pytest.approx(1e-3)
    assert config.optimizer.warmup_epochs * 3 == pytest.approx(5)
    assert (config.optimizer.min_lr, config.optimizer.weight_decay, config.optimizer.clip_norm) == (1e-5, 0.05, None)
    assert (config.optimizer.algorithm, config.optimizer.betas) == ("adamw", (0.9, 0.999))
    assert (config.distillation.kind, config.distillation.alpha, config.distillation.temperature) == (kind, 0.5, 1.0)
    assert config.teacher == ("regnety_160.deit_in1k" if kind == "hard" else "none")
    assert (config.average, config.drop_path, config.loss) == (0.99996, 0.1, "cross-entropy")
    augmentation = config.augmentation
    assert (augmentation.rand_augment, augmentation.erasing) == ("rand-m9-mstd0.5-inc1", 0.25)
    assert (augmentation.crop_scale, augmentation.mirror) == ((0.08, 1.0), 0.5)
    assert (augmentation.three_augment, augmentation.colour_jitter) == (False, 0.0)
    assert (config.mixing.mixup, config.mixing.cutmix, config.mixing.label_smoothing) == (0.8, 1.0, 0.1)
    assert (config.pool, config.head_std, config.layer_decay, config.evaluation_crop) == ("own", 0.02, None, 0.875)
    assert (config.init, config.initialization, config.normalization) == ("none", "timm", "imagenet")


@pytest.mark.parametrize("row", rows(DEIT3), ids=lambda row: row[0])
def test_deit_iii_holds_the_papers_numbers(row: list[str]):
    name, model, pixels, patch, drop_path, peak = row
    config = RECIPES[name].config
    assert_model(config.encoder, model, int(pixels), int(patch))
    assert (config.epochs * 3, config.views, config.batch_size) == (pytest.approx(800), 3, 2048)
    assert peak_learning_rate(config.optimizer, config.batch_size) == pytest.approx(float(peak))
    assert config.optimizer.warmup_epochs * 3 == pytest.approx(5)
    assert (config.optimizer.min_lr, config.optimizer.weight_decay, config.optimizer.clip_norm) == (1e-5, 0.05, 1.0)
    assert (config.optimizer.algorithm, config.optimizer.betas) == ("lamb", (0.9, 0.999))
    assert (config.distillation.kind, config.teacher) == ("none", "none")
    assert (config.average, config.drop_path, config.loss) == (None, float(drop_path), "bce-any")
    assert config.drop_path_rule == "even"
    augmentation = config.augmentation
    assert (augmentation.rand_augment, augmentation.erasing) == (None, 0.0)
    assert (augmentation.crop_scale, augmentation.mirror) == ((0.08, 1.0), 0.5)
    assert (augmentation.three_augment, augmentation.colour_jitter) == (True, 0.3)
    assert (config.mixing.mixup, config.mixing.cutmix, config.mixing.label_smoothing) == (0.8, 1.0, 0.0)
    assert (config.pool, config.head_std, config.layer_decay, config.evaluation_crop) == ("own", 0.02, None, 1.0)
    assert (config.init, config.initialization, config.normalization) == ("none", "timm", "imagenet")


@pytest.mark.parametrize(("size", "drop_path"), [("b", 0.2), ("l", 0.45), ("h", 0.55)])
def test_deit_iii_ends_with_twenty_epochs_at_224(size: str, drop_path: float):
    config, before = RECIPES[f"deit3-{size}-224-in1k"].config, RECIPES[f"deit3-{size}-in1k"].config
    assert config.encoder == replace(before.encoder, image_size=(224, 224))
    assert (config.init, config.head, config.image_size) == (REQUIRED, "keep", (224, 224))
    assert (config.epochs, config.views, config.batch_size, config.optimizer.warmup_epochs) == (20, 1, 512, 5)
    assert peak_learning_rate(config.optimizer, 512) == pytest.approx(config.optimizer.min_lr) == pytest.approx(1e-5)
    assert (config.optimizer.algorithm, config.optimizer.weight_decay) == ("adamw", 0.1)
    assert (config.optimizer.clip_norm, config.drop_path, config.drop_path_rule) == (None, drop_path, "even")
    augmentation = config.augmentation
    assert (augmentation.rand_augment, augmentation.erasing) == ("rand-m9-mstd0.5-inc1", 0.0)
    assert (augmentation.three_augment, augmentation.colour_jitter) == (False, 0.0)
    assert (config.mixing.mixup, config.mixing.cutmix, config.mixing.label_smoothing) == (0.8, 1.0, 0.1)
    assert (config.loss, config.evaluation_crop, config.distillation.kind) == ("cross-entropy", 1.0, "none")


def assert_model(encoder: BackboneConfig, name: str, pixels: int, patch: int) -> None:
    assert (encoder.name, encoder.image_size, encoder.patch_size) == (name, (pixels, pixels), (patch, patch))
    assert (encoder.width, encoder.depth, encoder.heads) == (None, None, None)


def test_deit_b_at_384_goes_on_from_weights_at_224():
    config, before = RECIPES["deit-b-384-in1k"].config, RECIPES["deit-b-distilled-in1k"].config
    assert config.encoder.image_size == config.image_size == (384, 384)
    assert (config.init, config.head, config.drop_path) == (REQUIRED, "keep", 0.0)
    assert (config.epochs * 3, config.batch_size) == (pytest.approx(30), 512)
    assert peak_learning_rate(config.optimizer, 512) == pytest.approx(config.optimizer.min_lr) == pytest.approx(5e-6)
    assert config.optimizer.weight_decay == 1e-8
    for option in ("teacher", "distillation", "views", "augmentation", "mixing", "pool", "loss"):
        assert getattr(config, option) == getattr(before, option), option


def test_students_have_a_head_for_the_teacher_exactly_where_there_is_one():
    for name, recipe in RECIPES.items():
        if "in1k" in name or "cifar" in name:
            with torch.device("meta"):
                student = timm.create_model(recipe.config.encoder.name, num_classes=10)
            assert has_distillation_head(student) == recipe.config.distillation.is_on, name


def test_teachers_are_models_whose_weights_timm_knows():
    named = {recipe.config.teacher for recipe in RECIPES.values()} - {"none", "own", REQUIRED}
    assert named == {name for name in named if timm.is_model_pretrained(name)} != set()


@pytest.mark.parametrize("name", ["deit-ti-in1k", "deit3-s-in1k"])
def test_students_start_as_the_papers_do(name: str):
    """Linears and positions N(0, .02), and not as masked autoencoders do; DeiT III's layer scales at 1e-4."""
    config = RECIPES[name].config
    encoder = complete(replace(config.encoder, image_size=(32, 32), width=48, depth=1, heads=3))
    how = config.initialization
    model = create_backbone(encoder, classes=10, pool=config.pool, drop_path=0.0, seed=0, initialization=how)
    for weight in ("blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight", "pos_embed"):
        assert model.get_parameter(weight).std().item() == pytest.approx(0.02, rel=0.15), weight
    if "deit3" in name:
        assert model.get_parameter("blocks.0.ls1.gamma").eq(1e-4).all()
        assert model.get_parameter("pos_embed").shape[1] == 4  # the class token has none


def test_an_epoch_here_is_three_of_theirs():
    assert published_epochs(300.0) == pytest.approx(100)
    assert published_epochs(5.0) == pytest.approx(5 / 3)
