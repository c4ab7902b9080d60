"""The doctor takes the options of a training command, and gives back that command's own config."""

from dataclasses import replace
from typing import Any

import pytest

from launch.settings import parse
from pretrain.distill_recipes import RECIPES as DISTILL_RECIPES
from pretrain.doctor_config import recipes, training_config
from pretrain.feature_recipes import RECIPES as FEATURE_RECIPES
from pretrain.recipes import RECIPES as MAE_RECIPES

GIVEN = {**MAE_RECIPES, **DISTILL_RECIPES, **FEATURE_RECIPES}


def ask(*words: str) -> tuple[str, Any]:
    return parse("The doctor.", recipes(), words)


def test_every_recipe_of_pre_training_is_known():
    found = recipes()
    assert found.keys() == GIVEN.keys()
    assert {name: recipe.outcome for name, recipe in found.items()} == {
        name: recipe.outcome for name, recipe in GIVEN.items()
    }


@pytest.mark.parametrize(
    ("recipe", "more"),
    [("vit-b16-in1k", {}), ("deit-ti4-cifar10", {"teacher": "T"}), ("digits-features", {"teacher": "T"})],
)
def test_the_words_of_a_training_command(recipe: str, more: dict[str, str]):
    words = [word for name, value in more.items() for word in (f"--{name}", value)]
    name, visit = ask(
        recipe, "--data", "D", "--out", "R", "--optimizer.base-lr", "1e-3", "--nodes", "4", "--gpus", "8", *words
    )
    assert (name, visit.nodes, visit.gpus, visit.hours, visit.report) == (recipe, 4, 8, None, None)
    config: Any = GIVEN[recipe].config
    own = training_config(visit)
    assert type(own) is type(config)
    assert own == replace(config, data="D", out="R", optimizer=replace(config.optimizer, base_lr=1e-3), **more)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--nodes", "0"), "--nodes expects a positive number, got 0"),
        (("--hours", "-1"), "--hours expects a positive number, got -1.0"),
        (("--epochs", "1"), "--optimizer.warmup-epochs 5 leaves nothing of the run's 1 epochs"),
        (("--gpu", "8"), "unknown option --gpu; did you mean --gpus?"),
    ],
)
def test_what_it_refuses(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        ask("digits", "--data", "D", "--out", "R", *words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
