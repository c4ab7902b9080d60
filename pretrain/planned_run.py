"""A run as its config plans it: which images in which order and view, what a step costs, and what trains it."""

import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch
from torch import nn

from data_pipeline.augment import CropView, RandomResizedCrop
from data_pipeline.manifest import read_manifest
from data_pipeline.order import Integers, Plan, lanes_for
from data_pipeline.ring import Ring
from data_pipeline.rows import Part, layout_of
from data_pipeline.stream import Stream
from launch.console import Console
from pretrain.architectures import create_backbone
from pretrain.classifier import resolve
from pretrain.distill_config import NO_TEACHER, OWN, DistillConfig
from pretrain.distillation import distill
from pretrain.distillation_config import DistillationConfig
from pretrain.doctor_config import PlannedConfig
from pretrain.encoder import create_classifier, create_encoder
from pretrain.feature_distill_config import FeatureDistillConfig
from pretrain.feature_distillation import distill_features
from pretrain.flops import autoencoder_flops, encoder_flops, training_flops
from pretrain.mae_config import MaeConfig
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.masked_pretraining import pretrain
from pretrain.mixing import check_pairs
from pretrain.model_flops import model_flops
from pretrain.pixels import check_channels, choose_normalization
from pretrain.task import read_task
from pretrain.training_view import training_view
from pretrain.world import World

_PREFETCH: int = inspect.signature(Stream).parameters["prefetch"].default
_NEVER = 10**9  # steps


@dataclass(frozen=True)
class PlannedRun:
    """What a config comes to. flops: of training on one image, what a teacher does left out. parameters: of what
    learns. train: the training script's own work. members, fixed_views: see `Stream`.
    """

    config: PlannedConfig
    parts: list[Part]
    view: CropView
    plan: Plan
    flops: float
    parameters: int
    train: Callable[[str, Any, World], object]
    members: Integers | None = None
    fixed_views: int | None = None

    @property
    def samples(self) -> int:
        """Images that take part, of all datasets."""
        if self.members is not None:
            return len(self.members)
        return sum(part.manifest.split(part.split).present for part in self.parts)

    @property
    def is_shared_out(self) -> bool:
        """Whether each process keeps a share of the weights only."""
        return not isinstance(self.config, DistillConfig) and self.config.shard_parameters

    @property
    def chooses(self) -> bool:
        """Whether checkpoints of the best evaluations stay as well."""
        return isinstance(self.config, DistillConfig)

    def steps(self, batch_size: int) -> int:
        """Optimizer steps of the run."""
        return ceil(self.config.epochs * self.samples * self.plan.views / batch_size)

    def kept_checkpoints(self, steps: int) -> int:
        """Checkpoints that lie in the run's folder after so many steps, those of the best evaluations left out."""
        if isinstance(self.config, DistillConfig) or self.config.keep_every_steps == 0:
            return self.config.keep_checkpoints
        return self.config.keep_checkpoints + steps // self.config.keep_every_steps

    def check_pairs(self, batch_size: int, processes: int) -> None:
        """Raise ValueError where images of such a batch could not be mixed by so many processes."""
        if isinstance(self.config, DistillConfig) and self.config.mixing.is_on:
            check_pairs(batch_size, processes, views=self.plan.views, lanes=min(self.plan.lanes, self.samples))

    def stream(self, batch_size: int, rank: int, processes: int, workers: int, *, device: torch.device) -> Stream:
        """What one process of the run reads, without an end. Raises ValueError as `Stream` does."""
        return Stream(
            self.parts,
            self.view,
            batch_size=batch_size,
            seed=self.config.seed,
            plan=self.plan,
            members=[self.members] * len(self.parts),
            rank=rank,
            world=processes,
            workers=workers,
            pin_memory=device.type == "cuda",
            cache=self.config.cache,
            device=device,
            fixed_views=self.fixed_views,
        )

    def ring_bytes(self, rows: int, workers: int) -> int:
        """Bytes of shared memory that a process's loader writes batches of so many rows into; 0 without workers."""
        return Ring.bytes(_PREFETCH + 1, layout_of(self.parts, self.view, rows)) if workers > 0 else 0


def plan_run(config: PlannedConfig) -> PlannedRun:
    """Read what a run of this config reads before its first step, but for a teacher.

    Raises:
        ValueError, OSError: data, weights or options that do not fit each other, as the training script would.
    """
    if isinstance(config, DistillConfig):
        return _plan_classifier(config)
    weights = config.weights or (1,) * (1 + len(config.also))
    given = [Part(read_manifest(folder), config.split) for folder in (config.data, *config.also)]
    parts = check_channels(config.encoder.channels, given, config.held_out)
    normalization = choose_normalization(config.normalization, parts[0].manifest)
    if isinstance(config, FeatureDistillConfig):
        student = create_classifier(config.encoder, classes=0, pool="token", drop_path=config.drop_path)
        return PlannedRun(
            config,
            parts,
            training_view(config.augmentation, config.encoder.image_size, normalization),
            Plan(lanes=lanes_for(config.max_world), views=config.views, weights=weights),
            float(training_flops(encoder_flops(student))),
            _parameters(student),
            distill_features,
            fixed_views=config.cache_teacher.views or None,
        )
    model = MaskedAutoencoder(create_encoder(config.encoder), config.decoder, config.objective)
    view = RandomResizedCrop(config.encoder.image_size, config.crop_scale, mirror=config.mirror)
    plan = Plan(lanes=lanes_for(config.max_world), weights=weights)
    return PlannedRun(
        config, parts, view, plan, float(training_flops(autoencoder_flops(model))), _parameters(model), pretrain
    )


def rehearsal_config(planned: PlannedRun, out: str, batch_size: int, processes: int, log_every: int) -> PlannedConfig:
    """The run's config for a few steps of such a batch in another folder, after which nothing is evaluated.

    A teacher that the run would train first takes no part, nor does a teacher's cache: the teacher itself is asked.
    """
    config = planned.config
    rate = config.optimizer.base_lr * config.batch_size / batch_size  # the same peak, or `min_lr` could lie above it
    changes: dict[str, Any] = {
        "out": out,
        "batch_size": batch_size,
        "optimizer": replace(config.optimizer, base_lr=rate),
        "log_every": log_every,
        "checkpoint_steps": _NEVER,
        "keep_checkpoints": 1,
        "evaluate_epochs": 0.0,
        "tracker": "none",
        "resume": None,
    }
    if isinstance(config, MaeConfig):
        return replace(config, **changes, keep_every_steps=0)
    changes["cache_teacher"] = replace(config.cache_teacher, views=0, classes=None, folder=None)
    if isinstance(config, FeatureDistillConfig):
        return replace(config, **changes, keep_every_steps=0)
    changes |= {"patience": None, "show_groups": False}
    if config.teacher == OWN:
        changes |= {"teacher": NO_TEACHER, "distillation": DistillationConfig("none"), "unlabelled": False}
    try:
        planned.check_pairs(batch_size, processes)
    except ValueError:  # of this batch, which is another than the run's
        changes["mixing"] = replace(config.mixing, mixup=0.0, cutmix=0.0)
    return replace(config, **changes)


def _plan_classifier(given: DistillConfig) -> PlannedRun:
    config, start = resolve(given)
    manifest = read_manifest(config.data)
    parts = check_channels(config.encoder.channels, [Part(manifest, config.split)], config.held_out)
    task = read_task(config, manifest, Console(stream=io.StringIO()), unlabelled=config.unlabelled)
    normalization = start.normalization if start else choose_normalization(config.normalization, manifest)
    model = _blank(config, len(task.classes))
    return PlannedRun(
        given,
        parts,
        training_view(config.augmentation, config.encoder.size, normalization),
        Plan(lanes=lanes_for(config.max_world), subset=task.subset, views=config.views),
        model_flops(model, (config.encoder.channels, *config.encoder.size)),
        _parameters(model),
        distill,
        members=task.members,
        fixed_views=config.cache_teacher.views or None,
    )


def _blank(config: DistillConfig, classes: int) -> nn.Module:
    """A model of the size that learns."""
    return create_backbone(config.encoder, classes=classes, pool=config.pool, drop_path=0.0, seed=config.seed)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
