"""A finished run whose files a test writes itself, as far as it needs them."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.manifest import INDEX_DTYPE, Manifest, Shard, Split, Statistics
from finetune.finished_run import FinishedRun, RunConfig
from launch.run_folder import RunFolder
from pretrain.backbone_config import BackboneConfig
from pretrain.checkpoint import Checkpoint
from pretrain.mae_config import MaeConfig
from pretrain.model_source import ModelSource, Preparation
from pretrain.pixels import Normalization

Finish = Callable[[Path, RunConfig], FinishedRun]


@pytest.fixture
def finish() -> Finish:
    """Of a folder and a config makes a run there, whose data are four images to train on and two to test."""
    return _finish


def _finish(folder: Path, config: RunConfig) -> FinishedRun:
    folder.mkdir(parents=True, exist_ok=True)
    run = RunFolder(folder)
    run.figures.mkdir(exist_ok=True)
    names = None if isinstance(config, MaeConfig) else ("cat", "dog")
    exported = ModelSource(
        "run",
        run.model,
        BackboneConfig("vit_tiny_patch16_224", (8, 8), (2, 2), width=24, depth=2, heads=2),
        Normalization((0.5,) * 3, (0.5,) * 3),
        Preparation("bicubic", 1.0, "center"),
        len(names or ()),
        names,
        pool="mean",
        is_ours=True,
        is_folder=True,
    )
    checkpoint = Checkpoint(run.checkpoints / "step-00000040", {"step": 40})
    return FinishedRun(run, "r", config, exported, checkpoint, _manifest(folder.parent / "pets"), None)


def _manifest(folder: Path) -> Manifest:
    folder.mkdir(exist_ok=True)
    splits = {}
    for name, labels in (("train", [0, 0, 1, 1]), ("test", [0, 1])):
        index = np.zeros(len(labels), INDEX_DTYPE)
        index["label"] = labels
        np.save(folder / f"{name}.npy", index)
        digest = hashlib.sha256((folder / f"{name}.npy").read_bytes()).hexdigest()
        shard = Shard(f"{name}.tar", len(labels), 1, name * 9, f"{name}.npy", digest)
        splits[name] = Split("png", (shard,), class_counts=(len(labels) // 2,) * 2)
    statistics = Statistics((0.5,) * 3, (0.5,) * 3, (8, 8), (9, 12))
    return Manifest(folder, ("cat", "dog"), statistics, {"command": "--source x"}, splits)
