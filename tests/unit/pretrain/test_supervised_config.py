"""What every supervised run refuses, in the words of the command line, and which of its options may change."""

import dataclasses
import re
from typing import Any

import pytest

from launch.settings import REQUIRED
from launch.strict_json import from_json, to_json
from pretrain.augment_config import MixingConfig
from pretrain.backbone_config import BackboneConfig
from pretrain.config import OptimizerConfig
from pretrain.supervised_config import MAY_CHANGE_ON_RESUME, SupervisedConfig


def config(**options: Any) -> SupervisedConfig:
    encoder = BackboneConfig("vit_tiny_patch16_224", arguments=("init_values=0.1",))
    values: dict[str, Any] = {"epochs": 10.0, "batch_size": 8, "optimizer": OptimizerConfig(warmup_epochs=1.0)}
    return SupervisedConfig(encoder, **values | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch-size expects a positive number, got 0"),
        ({"accumulate": 0}, "--accumulate expects a positive number, got 0"),
        ({"head_std": 0.0}, "--head-std expects a positive number, got 0.0"),
        ({"keep_checkpoints": 0}, "--keep-checkpoints expects a positive number, got 0"),
        ({"evaluate_epochs": -1.0}, "--evaluate-epochs expects zero or more, got -1.0"),
        ({"seed": -1}, "--seed expects zero or more, got -1"),
        ({"layer_decay": 1.5}, "--layer-decay expects a share above 0, at most 1, got 1.5"),
        ({"average": 1.0}, "--average expects a decay between 0 and 1, such as 0.9999, got 1.0"),
        ({"balance": 1.5}, "--balance expects 0 to 1, got 1.5"),
        ({"validation": 1.0}, "--validation expects a share of the training images, at least 0, below 1, got 1.0"),
        ({"patience": 0}, "--patience expects a positive number of evaluations, or None, got 0"),
        (
            {"patience": 2, "evaluate_epochs": 0.0},
            "--patience needs evaluations to count: give --evaluate-epochs above 0, or drop --patience",
        ),
        (
            {"head": "keep", "init": "none"},
            "--head keep: training from scratch (--init none) has no head to keep; drop",
        ),
        *(
            (
                {"label_field": "tags", **more},
                "--label-field tags: images with several labels have no one class to choose or to balance them by, nor "
                "a head that is known to fit; drop --labels, --balance and --head keep",
            )
            for more in ({"labels": 5}, {"balance": 0.5}, {"head": "keep"})
        ),
        (
            {"loss": "bce-any", "mixing": MixingConfig(label_smoothing=0.1)},
            "--loss bce-any: smoothed labels (--mixing.label-smoothing 0.1) give every class a share, so that all "
            "would count; pass --mixing.label-smoothing 0, or --loss bce",
        ),
        ({"epochs": 1.0}, "--optimizer.warmup-epochs 1 leaves nothing of the run's 1 epochs; pass less, such as 0.05"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        config(**options)


def test_what_goes_together():
    config(loss="bce-any", mixing=MixingConfig(label_smoothing=0.0))
    config(loss="bce", mixing=MixingConfig(label_smoothing=0.1))
    config(head="keep", init="m")
    config(label_field="tags", validation=0.5, patience=1)
    assert config().init is REQUIRED


def test_it_survives_json():
    full = config(data="d", init="i", out="r", image_size=(8, 12), labels=3, average=0.9, layer_decay=None)
    assert from_json(SupervisedConfig, to_json(full), "config.json") == full


def test_what_may_change_on_resume_are_options_and_not_what_is_learnt():
    names = {field.name for field in dataclasses.fields(SupervisedConfig)}
    assert names > MAY_CHANGE_ON_RESUME
    learnt = {"encoder", "epochs", "batch_size", "optimizer", "init", "labels", "validation", "loss", "initialization"}
    learnt |= {"augmentation", "mixing", "average", "seed", "split", "held_out", "max_world", "drop_path", "balance"}
    assert names > learnt
    assert not learnt & MAY_CHANGE_ON_RESUME
