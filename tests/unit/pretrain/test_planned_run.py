"""What a config comes to, and the config of its rehearsal."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from data_pipeline.manifest import write_manifest
from pretrain.augment_config import MixingConfig
from pretrain.check_plan import check_plan, fitting_batch
from pretrain.distill_recipes import RECIPES as DISTILL_RECIPES
from pretrain.feature_recipes import RECIPES as FEATURE_RECIPES
from pretrain.planned_run import plan_run, rehearsal_config
from pretrain.recipes import RECIPES
from pretrain.teacher_cache_config import TeacherCacheConfig


@pytest.fixture
def data(datasets: ModuleType, tmp_path: Path) -> str:
    """300 images in one shard."""
    write_manifest(datasets.write_dataset(tmp_path / "data", [300]))
    return str(tmp_path / "data")


def mae(data: str, **changes: Any) -> Any:
    return replace(RECIPES["digits"].config, data=data, out="R", **changes)


def distill(data: str, **changes: Any) -> Any:
    return replace(DISTILL_RECIPES["digits-distill"].config, data=data, out="R", held_out="train", **changes)


def test_a_masked_autoencoder(data: str):
    planned = plan_run(mae(data, epochs=10.0, keep_every_steps=10))
    assert planned.samples == 300
    assert planned.steps(64) == 47
    assert planned.kept_checkpoints(47) == 3 + 4
    assert planned.flops > 0
    assert not planned.is_shared_out
    assert not planned.chooses
    batch = next(iter(planned.stream(64, 3, 4, 0, device=torch.device("cpu"))))
    assert batch.positions.tolist() == list(range(3, 64, 4))
    assert planned.ring_bytes(16, 0) == 0
    assert planned.ring_bytes(16, 1) >= 4 * 16 * 8 * 8 * 3


def test_learning_features(data: str):
    config = replace(FEATURE_RECIPES["digits-features"].config, data=data, out="R", teacher="T", shard_parameters=True)
    planned = plan_run(config)
    assert planned.is_shared_out
    assert planned.parameters > 0
    rehearsed: Any = rehearsal_config(
        replace(planned, config=replace(config, cache_teacher=TeacherCacheConfig(4))), "X", 8, 1, 1
    )
    assert not rehearsed.cache_teacher.is_on


def test_a_classifier(data: str):
    planned = plan_run(distill(data))
    assert planned.chooses
    assert planned.samples == 300
    assert planned.kept_checkpoints(1000) == 3


def test_a_rehearsal_has_the_peak_of_the_run_and_ends_without_an_evaluation(data: str):
    config = mae(data, tracker="none", checkpoint_steps=7)
    rehearsed: Any = rehearsal_config(plan_run(config), "X", 16, 2, 5)
    assert rehearsed.optimizer.base_lr * rehearsed.batch_size == config.optimizer.base_lr * config.batch_size
    assert (rehearsed.out, rehearsed.evaluate_epochs, rehearsed.log_every) == ("X", 0.0, 5)
    assert rehearsed.checkpoint_steps > rehearsed.epochs * 300
    assert (rehearsed.data, rehearsed.seed, rehearsed.encoder) == (config.data, config.seed, config.encoder)


def test_a_teacher_that_would_be_trained_first_takes_no_part(data: str):
    rehearsed: Any = rehearsal_config(plan_run(distill(data, unlabelled=True)), "X", 32, 1, 1)
    assert (rehearsed.teacher, rehearsed.distillation.is_on, rehearsed.unlabelled) == ("none", False, False)


def test_a_batch_that_could_not_be_mixed_is_rehearsed_without(data: str):
    planned = plan_run(distill(data, mixing=MixingConfig()))
    even: Any = rehearsal_config(planned, "X", 32, 1, 1)
    odd: Any = rehearsal_config(planned, "X", 1, 1, 1)
    assert (even.mixing.is_on, odd.mixing.is_on) == (True, False)


def test_all_of_a_plan(data: str):
    planned = plan_run(mae(data))
    assert [one.verdict for one in check_plan(planned, 4)] == ["ok"] * 4
    assert [(one.what, one.verdict) for one in check_plan(planned, 7)] == [
        ("batch", "problem"),
        ("lanes", "warning"),
        ("blocks", "ok"),
        ("steps", "ok"),
    ]
    assert fitting_batch(planned, 4) == 64
    assert fitting_batch(planned, 7) == 63


def test_a_batch_that_is_mixed_in_pairs(data: str):
    planned = plan_run(distill(data, mixing=MixingConfig(), batch_size=36))
    (found, *_) = check_plan(planned, 12)
    assert (found.verdict, found.measured) == ("problem", "36 images, mixed in pairs")
    assert found.fix.startswith("--batch-size 36 is not divisible by 2 x 12 processes")
    assert fitting_batch(planned, 12) in (24, 48)
