"""What a supervised run makes of its options before it trains: plan, views, and batches that cannot be mixed."""

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch

from data_pipeline.manifest import Manifest
from data_pipeline.rows import Part
from launch.console import Console
from launch.run_folder import RunFolder
from pretrain.augment_config import AugmentationConfig, MixingConfig
from pretrain.backbone_config import BackboneConfig
from pretrain.config import OptimizerConfig
from pretrain.pixels import IMAGENET
from pretrain.session import Session
from pretrain.supervised_config import SupervisedConfig
from pretrain.supervised_run import SupervisedRun
from pretrain.task import Task, Watched
from pretrain.world import World

CONFIG = SupervisedConfig(
    BackboneConfig("test_resnet", (32, 32)),
    epochs=2.0,
    batch_size=12,
    optimizer=OptimizerConfig(warmup_epochs=0.0),
    augmentation=AugmentationConfig(rand_augment=None, erasing=0.5),
    mixing=MixingConfig(0.8, 0.0),
    workers=0,
    data="d",
    init="none",
    out="r",
)


@pytest.fixture
def make(tmp_path: Path, datasets: ModuleType) -> Callable[..., SupervisedRun]:
    """A run on 13 images: `make(config, members=[1, 2], views=3)`."""
    manifest: Manifest = datasets.write_dataset(tmp_path / "data", [9, 4])

    def make(config: SupervisedConfig, members: list[int] | None = None, **how: Any) -> SupervisedRun:
        part, chosen = Part(manifest, "train"), None if members is None else np.asarray(members)
        watched = Watched(part, np.arange(13), None, is_held_out=True)
        task = Task(part, chosen, "rule-x", ("x", "y"), None, watched, watched)
        own = Session(World("fp32"), Console(stream=StringIO()), RunFolder(tmp_path), {})
        with torch.random.fork_rng():
            model = timm.create_model("test_resnet", num_classes=2)
        return SupervisedRun(own, config, task, model, IMAGENET, **how)

    return make


def test_views_and_the_rule_of_its_samples_are_of_its_plan(make: Callable[..., SupervisedRun]):
    plain, repeated = make(CONFIG), make(replace(CONFIG, max_world=100), views=3, fixed_views=4)
    assert (plain.plan.views, plain.plan.lanes, plain.plan.subset) == (1, 240, "rule-x")
    assert (repeated.plan.views, repeated.plan.lanes, repeated.plan.subset) == (3, 7680, "rule-x")
    assert (plain.supervision.erases_by_view, repeated.supervision.erases_by_view) == (False, True)
    assert plain.view.size == (32, 32)


@pytest.mark.parametrize(("members", "batch_size"), [(None, 26), ([1, 2, 5, 7], 8)])
def test_batches_that_would_mix_an_image_with_itself_are_refused(
    make: Callable[..., SupervisedRun], members: list[int] | None, batch_size: int
):
    """Of an image two views lie as far apart as there are images, where these are fewer than lanes."""
    config = replace(CONFIG, batch_size=batch_size)
    with pytest.raises(
        ValueError, match=rf"--batch-size {batch_size} pairs rows 1 x {batch_size // 2} positions apart"
    ):
        make(config, members, views=2)
    make(config, members)
    make(replace(config, mixing=MixingConfig(0.0, 0.0)), members, views=2)
    make(replace(config, batch_size=batch_size - 2), members, views=2)


def test_pairs_need_an_even_batch(make: Callable[..., SupervisedRun]):
    with pytest.raises(ValueError, match=r"--batch-size 13 is not divisible by 2 x 1 processes, which mixing of pairs"):
        make(replace(CONFIG, batch_size=13))
