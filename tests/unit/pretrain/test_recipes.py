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
def test_every_recipe_builds_its_encoder_and_survives_json(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pretrain.encoder.allocate", lambda module: None)  # H alone would take 2.5 GB
    config = replace(RECIPES[name].config, data="d", out="r")
    encoder = create_encoder(config.encoder)
    assert encoder.patch_embed.num_patches == config.encoder.patches
    assert from_json(MaeConfig, to_json(config), "config.json") == config
    assert RECIPES[name].outcome.startswith(("measured: ", "published: ", "not in the paper"))


@pytest.mark.parametrize("epochs", [800, 1600])
@pytest.mark.parametrize("size", ["s16", "b16", "l16", "h14"])
def test_imagenet_recipes_hold_the_papers_numbers(size: str, epochs: int):
    """What becomes of them, parameter by parameter and epoch by epoch: tests/golden/test_recipe_tables.py."""
    recipe = RECIPES[f"vit-{size}-in1k" + ("-800" if epochs == 800 else "")]
    config = recipe.config
    assert config.epochs == epochs
    assert config.batch_size == 4096
    assert config.objective == ObjectiveConfig(0.75, True)
    assert config.optimizer == OptimizerConfig(1.5e-4, 0.05, (0.9, 0.95), 40.0, 0.0, None)
    assert (config.decoder.width, config.decoder.depth, config.decoder.heads) == (512, 8, 16)
    assert (config.encoder.image_size, config.encoder.patch_size) == ((224, 224), (int(size[1:]),) * 2)
    assert config.crop_scale == (0.2, 1.0)
    assert config.mirror == 0.5
    assert config.normalization == "imagenet"
    assert peak_learning_rate(config.optimizer, config.batch_size) == pytest.approx(2.4e-3)
    assert "not run here" in recipe.outcome
    assert f"{epochs} epochs" in recipe.outcome or recipe.outcome.startswith("not in the paper")


def test_the_recipes_of_a_size_differ_in_their_epochs_alone():
    names = {name.removesuffix("-800") for name in RECIPES if "in1k" in name}
    assert names == {"vit-s16-in1k", "vit-b16-in1k", "vit-l16-in1k", "vit-h14-in1k"}
    for name in names:
        assert replace(RECIPES[name].config, epochs=800.0) == RECIPES[f"{name}-800"].config


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


def test_any_number_of_channels_is_accepted():
    """Whether it is the dataset's is seen when that is open: `check_channels`."""
    config = RECIPES["digits"].config
    assert replace(config, encoder=replace(config.encoder, channels=7)).encoder.channels == 7


def test_empty_neighbourhoods_are_refused():
    with pytest.raises(ValueError, match=r"--knn\.neighbours expects a positive number, got 0"):
        KnnConfig(neighbours=0)


def test_fields_that_may_change_on_resume_exist():
    assert set(to_json(replace(RECIPES["digits"].config, data="d", out="r"))) >= MAY_CHANGE_ON_RESUME
