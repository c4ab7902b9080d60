"""Fine-tuning recipes hold the numbers they cite, and configs refuse what does not fit."""

from dataclasses import replace

import pytest

from finetune.classify_config import ClassifyConfig
from finetune.recipes import RECIPES
from launch.strict_json import from_json, to_json
from pretrain.augment_config import AugmentationConfig, MixingConfig
from pretrain.optimizer import peak_learning_rate
from pretrain.supervised_config import MAY_CHANGE_ON_RESUME


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json_and_states_its_outcome(name: str):
    config = replace(RECIPES[name].config, data="d", out="r", init="i")
    assert from_json(ClassifyConfig, to_json(config), "config.json") == config
    assert RECIPES[name].outcome.startswith(("measured: ", "published: "))


@pytest.mark.parametrize(
    ("name", "epochs", "base_lr", "decay", "drop_path"),
    [
        ("vit-b16-in1k", 100, 5e-4, 0.65, 0.1),
        ("vit-l16-in1k", 50, 1e-3, 0.75, 0.2),
        ("vit-h14-in1k", 50, 1e-3, 0.75, 0.3),
    ],
)
def test_imagenet_recipes_hold_the_released_numbers(
    name: str, epochs: float, base_lr: float, decay: float, drop_path: float
):
    config = RECIPES[name].config
    assert (config.epochs, config.layer_decay, config.drop_path) == (epochs, decay, drop_path)
    assert peak_learning_rate(config.optimizer, config.batch_size) == pytest.approx(base_lr * 4)
    optimizer = config.optimizer
    assert (optimizer.weight_decay, optimizer.betas, optimizer.clip_norm) == (0.05, (0.9, 0.999), None)
    assert (optimizer.warmup_epochs, optimizer.min_lr) == (5.0, 1e-6)
    assert config.augmentation == AugmentationConfig((0.08, 1.0), 0.5, "rand-m9-mstd0.5-inc1", 0.25)
    assert config.mixing == MixingConfig(0.8, 1.0, 0.1)
    assert (config.batch_size, config.pool, config.head_std) == (1024, "mean", 2e-5)
    assert config.evaluation_crop == 224 / 256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0.0}, "--epochs expects a positive number, got 0.0"),
        ({"labels": 0}, "--labels expects a positive number of images a class, or None, got 0"),
        ({"layer_decay": 0.0}, "--layer-decay expects a share above 0, at most 1, got 0.0"),
        ({"drop_path": 1.0}, "--drop-path expects a probability from 0 to below 1"),
        ({"evaluation_crop": 1.5}, "--evaluation-crop expects a share above 0"),
        ({"workers": -1}, "--workers expects zero or more"),
        ({"max_world": 1000}, "--max-world expects 1 to 512, got 1000"),
        ({"epochs": 4.0}, "--optimizer.warmup-epochs 5 leaves nothing of the run's 4 epochs"),
        ({"head": "keep", "init": "none"}, "--head keep: training from scratch"),
    ],
)
def test_what_does_not_fit_is_refused_by_option(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(RECIPES["vit-ti4-cifar10"].config, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_scale": (0.5, 0.2)}, "--augmentation.crop-scale expects two shares of the area, the smaller first"),
        ({"mirror": 1.5}, "--augmentation.mirror expects a probability from 0 to 1, got 1.5"),
        ({"erasing": -1.0}, "--augmentation.erasing expects a probability from 0 to 1, got -1.0"),
        ({"rand_augment": "rand-magnitude9"}, "rand-magnitude9 is not in timm's notation; pass such as rand-m9"),
    ],
)
def test_augmentations_that_do_not_fit_are_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        AugmentationConfig(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixup": -0.1}, "--mixing.mixup expects 0 to 10, got -0.1"),
        ({"cutmix": 11.0}, "--mixing.cutmix expects 0 to 10, got 11.0"),
        ({"label_smoothing": 1.0}, "--mixing.label-smoothing expects a share in"),
    ],
)
def test_mixing_that_does_not_fit_is_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        MixingConfig(**change)


def test_fields_that_may_change_on_resume_exist():
    assert set(to_json(replace(RECIPES["digits"].config, data="d", out="r", init="none"))) >= MAY_CHANGE_ON_RESUME
