"""A fine-tuning run: from a resolved start to model folders and their exact accuracy."""

from typing import Any

from torch import nn

from data_pipeline.manifest import Manifest, read_manifest
from data_pipeline.rows import Part
from finetune.classify_config import ClassifyConfig
from finetune.trainable import freeze
from finetune.trainable_config import parse_trainable
from launch.console import Console
from pretrain.classifier import build_classifier, resolve
from pretrain.group_table import groups_of_run
from pretrain.model_source import ModelSource
from pretrain.pixels import check_channels, choose_normalization
from pretrain.session import session
from pretrain.supervised_config import MAY_CHANGE_ON_RESUME
from pretrain.supervised_run import SupervisedRun
from pretrain.task import read_task
from pretrain.world import World


def classify(recipe: str, config: ClassifyConfig, world: World, console: Console | None = None) -> dict[str, Any]:
    """Train, evaluate and export as the config says; on rank 0 what evaluation.json then holds, and {} elsewhere, where
    the run was stopped, and where only the parameter groups are shown.

    Raises:
        ValueError: labels are missing, the model does not fit, or anything else that a user can mend.
    """
    config, source = resolve(config)
    if config.show_groups:
        _show_groups(config, source, console or Console(world.rank))
        return {}
    with session(recipe, config, config.out, MAY_CHANGE_ON_RESUME, world=world, console=console) as own:
        manifest = read_manifest(config.data)
        init = "--init" if source else None
        check_channels(config.encoder.channels, [Part(manifest, config.split)], config.held_out, init=init)
        task = read_task(config, manifest, own.console)
        normalization = source.normalization if source else choose_normalization(config.normalization, manifest)
        model = _build(config, source, task.classes, own.console)
        run = SupervisedRun(own, config, task, model, normalization)
        return run.train(run.supervision.objective)[1]


def _build(config: ClassifyConfig, source: ModelSource | None, classes: tuple[str, ...], console: Console) -> nn.Module:
    model = build_classifier(config, source, classes, console.say)
    console.say(freeze(model, parse_trainable(config.trainable)))
    return model


def _show_groups(config: ClassifyConfig, source: ModelSource | None, console: Console) -> None:
    """Print the parameter groups of the model that the run would train; nothing is written."""
    manifest: Manifest = read_manifest(config.data)
    model = _build(config, source, read_task(config, manifest, console).classes, console)
    console.say(groups_of_run(model, config))
