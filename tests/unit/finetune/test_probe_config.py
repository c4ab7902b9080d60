"""Probe recipes hold the numbers they cite, and configs refuse what does not fit."""

from dataclasses import replace
from typing import Any

import pytest

from finetune.feature_probe_config import FewShotConfig, LogisticConfig, NeighboursConfig, SweepConfig
from finetune.probe_config import (
    MAY_CHANGE_ON_RESUME,
    LarsConfig,
    LarsProbeConfig,
    LogisticProbeConfig,
    ProbeConfig,
    SweepProbeConfig,
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
            r"--evaluation-crop expects a share above 0, at most 1, or None, got 0.0",
        ),
        (
            LogisticProbeConfig,
            {"feature_cache": "s3://b/f"},
            r"--feature-cache expects a local folder, auto or none, got",
        ),
        (LogisticProbeConfig, {"held_out": "train"}, r"--held-out expects another split than --split, got train"),
        (LogisticProbeConfig, {"workers": -1}, r"--workers expects zero or more, got -1"),
        (LogisticConfig, {"strengths": ()}, r"--logistic\.strengths expects positive numbers, got none"),
        (LogisticConfig, {"strengths": (1.0, -1.0)}, r"--logistic\.strengths expects positive numbers, got 1\.0 -1\.0"),
        (NeighboursConfig, {"neighbours": 0}, r"--knn\.neighbours expects a positive number, got 0"),
        (NeighboursConfig, {"most_train": 0}, r"--knn\.most-train expects a positive number, got 0"),
        (NeighboursConfig, {"sweep": (5, 0)}, r"--knn\.sweep expects positive numbers, got 5 0"),
        (FewShotConfig, {"shots": (0, 1)}, r"--few-shot\.shots expects positive numbers, got 0 1"),
        (FewShotConfig, {"draws": 0}, r"--few-shot\.draws expects a positive number, got 0"),
        (FewShotConfig, {"strength": -1.0}, r"--few-shot\.strength expects a positive number, got -1\.0"),
        (SweepConfig, {"base_lrs": ()}, r"--sweep\.base-lrs expects positive numbers, got none"),
        (SweepConfig, {"blocks": (0,)}, r"--sweep\.blocks expects positive numbers, got 0"),
        (SweepConfig, {"batch_size": 0}, r"--sweep\.batch-size expects a positive number, got 0"),
        (SweepConfig, {"momentum": 1.0}, r"--sweep\.momentum expects a number from 0 to below 1, got 1\.0"),
        (SweepConfig, {"head_std": -1.0}, r"--sweep\.head-std expects zero or more, got -1\.0"),
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
    _, config = parse("Probe.", RECIPES, ["small", *where, "--few-shot.shots"])
    assert isinstance(config, LogisticProbeConfig)
    assert config.few_shot.shots == ()
    _, config = parse("Probe.", RECIPES, ["digits-lars", *where, "--optimizer.base-lr", "3"])
    assert isinstance(config, LarsProbeConfig)
    assert config.optimizer.base_lr == 3
    with pytest.raises(SystemExit):
        parse("Probe.", RECIPES, ["small", *where, "--optimizer.base-lr", "3"])
    assert "unknown option --optimizer.base-lr" in capsys.readouterr().err


def test_fields_that_may_change_on_resume_exist():
    assert set(to_json(LarsProbeConfig(data="d", init="i", out="r"))) >= MAY_CHANGE_ON_RESUME
    assert ProbeConfig().knn.neighbours == 20


def test_the_sweep_holds_the_numbers_of_the_released_evaluation():
    config = RECIPES["sweep"].config
    assert isinstance(config, SweepProbeConfig)
    sweep = config.sweep
    assert list(sweep.base_lrs) == [float(f"{digit}e-{power}") for power in (5, 4, 3, 2) for digit in (1, 2, 5)] + [0.1]
    assert (sweep.blocks, sweep.iterations, sweep.batch_size) == ((1, 4), 10 * 1250, 8 * 128)
    assert (sweep.momentum, sweep.head_std) == (0.9, 0.01)


def test_few_shot_holds_the_numbers_of_the_released_evaluation():
    assert FewShotConfig().strength == 1 / 0.00025
    assert FewShotConfig(shots=()).shots == ()
