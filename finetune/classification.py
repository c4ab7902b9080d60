"""A fine-tuning run: from a resolved start to model folders and their exact accuracy."""

from functools import partial
from typing import Any

import torch
from torch import nn

from data_pipeline.augment import RandomResizedCrop
from data_pipeline.manifest import Manifest, read_manifest
from data_pipeline.order import Plan, lanes_for
from data_pipeline.rand_augment import RandAugment
from data_pipeline.rows import Part
from data_pipeline.stream import Stream
from finetune.architectures import create_backbone
from finetune.classification_objective import Supervision
from finetune.classifier import build_classifier, resolve
from finetune.classify_config import MAY_CHANGE_ON_RESUME, ClassifyConfig
from finetune.conclusion import conclude
from finetune.examiner import Examined, Examiner
from finetune.group_table import group_table
from finetune.model_source import ModelSource
from finetune.task import Task, read_task
from finetune.trainable import freeze
from finetune.trainable_config import parse_trainable
from launch.console import Console
from pretrain.averaging import Average
from pretrain.drop_path import DropPaths, check_deterministic_forward
from pretrain.loop import fit
from pretrain.matrix_rate import matrix_rate
from pretrain.meter import Work
from pretrain.mixing import check_pairs
from pretrain.model_flops import model_flops
from pretrain.optimizer import create_optimizer, exempt_parameters, schedule
from pretrain.pixels import Normalization, check_channels, choose_normalization
from pretrain.saver import Keeping
from pretrain.selection import Selection
from pretrain.session import bit_equality_depends_on, find_start, loader_workers, session
from pretrain.training import Options, Pace, Training
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
        say = own.console.say
        manifest = read_manifest(config.data)
        init = "--init" if source else None
        check_channels(config.encoder.channels, [Part(manifest, config.split)], config.held_out, init=init)
        if config.mixing.is_on:
            check_pairs(config.batch_size, world.size)
        task = read_task(config, manifest, own.console)
        normalization = source.normalization if source else choose_normalization(config.normalization, manifest)
        model = build_classifier(config, source, task.classes, say)
        say(freeze(model, parse_trainable(config.trainable)))
        flops = model_flops(model, (config.encoder.channels, *config.encoder.size))
        model.to(world.device)
        paths = DropPaths(model)
        check_deterministic_forward(model)
        workers = loader_workers(config.workers, world)
        stream = _stream(config, task, normalization, world, workers)
        optimizer = _optimizer(model, config)
        training = Training(
            world,
            model,
            optimizer,
            stream,
            own.run,
            own.console,
            bit_equality_depends_on(world),
            average=None if config.average is None else Average(model, config.average, warm_up=True),
            track=own.tracking(config.tracker),
        )
        say(
            f"{stream.epoch_positions:,} images of {manifest.folder} [{config.split}] in {len(task.classes)} classes, "
            f"{config.epochs:g} epochs in {stream.steps(config.epochs):,} steps of {config.batch_size}; "
            f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} M parameters; "
            f"{world.size} x {world.device.type}, {workers} loader workers each, {config.precision}, seed {config.seed}"
        )
        stream.explain(say)
        stream.open(say)
        start = find_start(training, config.resume, "starting with these weights")
        examiner = Examiner(config, task, normalization, own, workers)
        metric = "top1" if task.sets is None else "mean_average_precision"

        known: dict[int, Examined] = {}

        def evaluate(step: int, _: float) -> dict[str, float]:
            found = examiner.examine(model, task.watched)
            if task.watched.is_held_out:
                known.clear()  # only the last is of use
                known[step] = found
            part, told = task.watched.part.split, found.summary()
            if task.watched.is_held_out and world.rank == 0:
                written = {"step": step, "split": part, "model": "last", **found.to_json(task.classes)}
                own.run.write_json(own.run.evaluation, written)
            say(f"step {step:,}  {metric} {told[metric]:.2%} of {found.images:,} images of {part}")
            return told

        ending = fit(
            training,
            Supervision(config, task, normalization, paths, world).objective,
            _pace(config, stream),
            Options(
                config.optimizer.clip_norm,
                work=Work(flops, matrix_rate(world.device, world.precision)),
                selection=Selection(metric, patience=config.patience),
            ),
            learning_rate=schedule(config.optimizer, config.batch_size, config.epochs),
            evaluate=evaluate,
            start=start,
        )
        stream.close()
        result: dict[str, Any] = {}
        if ending.status == "done":
            blank, last = partial(_blank, config, len(task.classes)), known.get(ending.step)
            result = conclude(training, ending, examiner, blank, known=last)
        own.close(ending.status, ending.step, stopped_early=ending.stopped_early)
        training.stop_tracking()
        return result


def _blank(config: ClassifyConfig, classes: int) -> nn.Module:
    """A model like the trained one, for other weights of its."""
    return create_backbone(config.encoder, classes=classes, pool=config.pool, drop_path=0.0, seed=config.seed)


def _stream(config: ClassifyConfig, task: Task, normalization: Normalization, world: World, workers: int) -> Stream:
    return Stream(
        [task.part],
        _training_view(config, normalization),
        batch_size=config.batch_size,
        seed=config.seed,
        plan=Plan(lanes=lanes_for(config.max_world), subset=task.subset),
        members=[task.members],
        rank=world.rank,
        world=world.size,
        workers=workers,
        epochs=config.epochs,
        pin_memory=world.device.type == "cuda",
        cache=config.cache,
        device=world.device,
    )


def _optimizer(model: nn.Module, config: ClassifyConfig) -> torch.optim.Optimizer:
    return create_optimizer(model, config.optimizer, exempt=exempt_parameters(model), layer_decay=config.layer_decay)


def _pace(config: ClassifyConfig, stream: Stream) -> Pace:
    return Pace(
        accumulate=config.accumulate,
        log_every=config.log_every,
        checkpoint_steps=config.checkpoint_steps,
        evaluate_steps=stream.steps(config.evaluate_epochs),
        keeping=Keeping(config.keep_checkpoints, every=0),
    )


def _show_groups(config: ClassifyConfig, source: ModelSource | None, console: Console) -> None:
    """Print the parameter groups of the model that the run would train; nothing is written."""
    manifest: Manifest = read_manifest(config.data)
    model = build_classifier(config, source, read_task(config, manifest, console).classes, console.say)
    console.say(freeze(model, parse_trainable(config.trainable)))
    console.say(
        group_table(
            model,
            config.optimizer,
            batch_size=config.batch_size,
            exempt=exempt_parameters(model),
            layer_decay=config.layer_decay,
        )
    )


def _training_view(config: ClassifyConfig, normalization: Normalization) -> RandomResizedCrop:
    augmentation = config.augmentation
    policy = None
    if augmentation.rand_augment is not None:
        red, green, blue = (min(255, round(255 * value)) for value in normalization.mean)
        policy = RandAugment(augmentation.rand_augment, (red, green, blue))
    return RandomResizedCrop(config.encoder.size, augmentation.crop_scale, mirror=augmentation.mirror, policy=policy)
