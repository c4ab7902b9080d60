"""Recipes hold the numbers they cite, and configs refuse what does not fit."""

from dataclasses import replace

import pytest

from launch.strict_json import from_json, to_json
from pretrain.config import ObjectiveConfig, OptimizerConfig
from pretrain.encoder import create_encoder
from pretrain.mae_config import MAY_CHANGE_ON_RESUME, KnnConfig, MaeConfig
from pretrain.optimizer import peak_learning_rate
from pretrain.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_its_encoder_and_survives_json(name: str):
    config = replace(RECIPES[name].config, data="d", out="r")
    encoder = create_encoder(config.encoder)
    assert encoder.patch_embed.num_patches == config.encoder.patches
    assert from_json(MaeConfig, to_json(config), "config.json") == config
    assert RECIPES[name].outcome.startswith(("measured: ", "published: ", "not in the paper"))


@pytest.mark.parametrize("name", ["vit-s16-in1k", "vit-b16-in1k", "vit-l16-in1k", "vit-h14-in1k"])
def test_imagenet_recipes_hold_the_papers_numbers(name: str):
    config = RECIPES[name].config
    assert config.batch_size == 4096
    assert config.objective == ObjectiveConfig(0.75, True)
    assert config.optimizer == OptimizerConfig(1.5e-4, 0.05, (0.9, 0.95), 40.0, 0.0, None)
    assert (config.decoder.width, config.decoder.depth, config.decoder.heads) == (512, 8, 16)
    assert config.crop_scale == (0.2, 1.0)
    assert config.mirror == 0.5
    assert peak_learning_rate(config.optimizer, config.batch_size) == pytest.approx(2.4e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0.0}, "--epochs expects a positive number, got 0.0"),
        ({"batch_size": -1}, "--batch-size expects a positive number"),
        ({"workers": -1}, "--workers expects zero or more"),
        ({"mirror": 1.5}, "--mirror expects a probability"),
        ({"max_world": 1000}, "--max-world expects 1 to 512, got 1000"),
        ({"crop_scale": (0.5, 0.2)}, "--crop-scale expects two shares"),
        ({"epochs": 3.0}, "warmup-epochs"),
    ],
)
def test_what_does_not_fit_is_refused_by_option(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(RECIPES["digits"].config, **change)


def test_grey_encoders_and_empty_neighbourhoods_are_refused():
    config = RECIPES["digits"].config
    with pytest.raises(ValueError, match=r"--encoder\.channels 1: images are read as RGB, expected 3"):
        replace(config, encoder=replace(config.encoder, channels=1))
    with pytest.raises(ValueError, match=r"--knn\.neighbours expects a positive number, got 0"):
        KnnConfig(neighbours=0)


def test_fields_that_may_change_on_resume_exist():
    assert set(to_json(replace(RECIPES["digits"].config, data="d", out="r"))) >= MAY_CHANGE_ON_RESUME
