"""Probe recipes hold the numbers they cite, and configs refuse what does not fit."""

from dataclasses import replace
from typing import Any

import pytest

from finetune.probe_config import (
    MAY_CHANGE_ON_RESUME,
    LarsConfig,
    LarsProbeConfig,
    LogisticConfig,
    LogisticProbeConfig,
    ProbeConfig,
)
from finetune.probe_recipes import RECIPES
from launch.settings import parse
from launch.strict_json import from_json, to_json
from pretrain.optimizer import learning_rate, peak_learning_rate


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name: str):
    config = replace(RECIPES[name].config, data="d", init="i", out="r")
    assert from_json(type(config), to_json(config), "config.json") == config
    assert RECIPES[name].outcome.startswith(("measured: ", "published: "))
    assert len(RECIPES[name].outcome) > 20


@pytest.mark.parametrize(("name", "epochs"), [("vit-b16-in1k", 90), ("vit-l16-in1k", 50), ("vit-h14-in1k", 50)])
def test_imagenet_recipes_hold_the_released_numbers(name: str, epochs: int):
    config = RECIPES[name].config
    assert isinstance(config, LarsProbeConfig)
    assert (config.epochs, config.batch_size, config.features) == (epochs, 16384, "token")
    assert config.optimizer == LarsConfig(base_lr=0.1, momentum=0.9, trust=0.001, warmup_epochs=10.0, clip_norm=None)
    assert (config.crop_scale, config.mirror, config.head_std) == ((0.08, 1.0), 0.5, 0.01)
    assert config.evaluation_crop == 224 / 256
    schedule = config.optimizer.schedule
    peak = peak_learning_rate(schedule, config.batch_size)
    assert peak == pytest.approx(6.4)
    assert learning_rate(5.0, schedule, peak=peak, epochs=config.epochs) == pytest.approx(3.2)
    assert learning_rate(config.epochs, schedule, peak=peak, epochs=config.epochs) == 0


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (
            LogisticProbeConfig,
            {"evaluation_crop": 0.0},
            r"--evaluation-crop expects a share above 0, at most 1, got 0.0",
        ),
        (LogisticProbeConfig, {"held_out": "train"}, r"--held-out expects another split than --split, got train"),
        (LogisticProbeConfig, {"workers": -1}, r"--workers expects zero or more, got -1"),
        (LogisticConfig, {"strengths": ()}, r"--logistic\.strengths expects positive numbers, got none"),
        (LogisticConfig, {"strengths": (1.0, -1.0)}, r"--logistic\.strengths expects positive numbers, got 1\.0 -1\.0"),
        (LogisticConfig, {"iterations": 0}, r"--logistic\.iterations expects a positive number, got 0"),
        (LarsConfig, {"base_lr": 0.0}, r"--optimizer\.base-lr expects a positive number, got 0\.0"),
        (LarsConfig, {"momentum": 1.0}, r"--optimizer\.momentum expects a number from 0 to below 1, got 1\.0"),
        (LarsConfig, {"trust": 0.0}, r"--optimizer\.trust expects a positive number, got 0\.0"),
        (LarsProbeConfig, {"seed": -1}, r"--seed expects zero or more, got -1"),
        (LarsProbeConfig, {"batch_size": 0}, r"--batch-size expects a positive number, got 0"),
        (LarsProbeConfig, {"head_std": -1.0}, r"--head-std expects zero or more, got -1\.0"),
        (LarsProbeConfig, {"mirror": 2.0}, r"--mirror expects a probability from 0 to 1, got 2\.0"),
        (LarsProbeConfig, {"max_world": 0}, r"--max-world expects 1 to 512, got 0"),
        (LarsProbeConfig, {"crop_scale": (0.5, 0.1)}, r"--crop-scale expects two shares of the area"),
        (LarsProbeConfig, {"epochs": 10.0}, r"--optimizer\.warmup-epochs 10 leaves nothing of the run's 10 epochs"),
    ],
)
def test_what_does_not_fit_is_refused_by_option(config: Any, change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        config(**change)


def test_a_recipe_has_the_options_of_its_own_probe_alone(capsys: pytest.CaptureFixture[str]):
    where = ["--data", "D", "--init", "R", "--out", "P"]
    _, config = parse("Probe.", RECIPES, ["small", *where, "--logistic.strengths", "0.5", "2"])
    assert isinstance(config, LogisticProbeConfig)
    assert config.logistic.strengths == (0.5, 2.0)
    _, config = parse("Probe.", RECIPES, ["digits-lars", *where, "--optimizer.base-lr", "3"])
    assert isinstance(config, LarsProbeConfig)
    assert config.optimizer.base_lr == 3
    with pytest.raises(SystemExit):
        parse("Probe.", RECIPES, ["small", *where, "--optimizer.base-lr", "3"])
    assert "unknown option --optimizer.base-lr" in capsys.readouterr().err


def test_fields_that_may_change_on_resume_exist():
    assert set(to_json(LarsProbeConfig(data="d", init="i", out="r"))) >= MAY_CHANGE_ON_RESUME
    assert ProbeConfig().knn.neighbours == 20
