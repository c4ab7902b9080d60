"""A run of DeiT's: a classifier from labels and from a teacher's logits, or from labels alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from data_pipeline.manifest import read_manifest
from data_pipeline.rows import Part
from data_pipeline.stream import Batch
from launch.console import Console
from launch.run_folder import RunFolder
from pretrain.cache_identity import LogitIdentity, TeacherFacts
from pretrain.class_agreement import check_channels as check_teacher_channels
from pretrain.class_agreement import check_classes
from pretrain.classifier import build_classifier, resolve
from pretrain.distill_config import MAY_CHANGE_ON_RESUME, NO_TEACHER, OWN, DistillConfig
from pretrain.distillation_objective import Tuition
from pretrain.first_rank import on_first
from pretrain.fixed_views import FixedViews
from pretrain.group_table import groups_of_run
from pretrain.model_source import ModelSource
from pretrain.own_teacher import train_own_teacher
from pretrain.pixels import check_channels, choose_normalization
from pretrain.session import Session, session
from pretrain.students import prepare_student
from pretrain.supervised_run import SupervisedRun
from pretrain.task import Task, read_task
from pretrain.teacher import Teacher
from pretrain.teacher_cache import TeacherCache, open_or_fill
from pretrain.teacher_record import check_teacher, record_teacher
from pretrain.teacher_source import find_teacher, named_architecture
from pretrain.world import World


def distill(recipe: str, config: DistillConfig, world: World) -> dict[str, Any]:
    """Train, evaluate and export as the config says; on rank 0 what evaluation.json then holds, and {} elsewhere, where
    the run was stopped, and where only the parameter groups are shown.

    Raises:
        ValueError: labels are missing, student, teacher and data do not fit each other, or anything else that a user
            can mend.
    """
    config, start = resolve(config)
    if config.show_groups:
        console = Console(world.rank)
        task = _task(config, console)
        console.say(groups_of_run(_student(config, start, task, console), config))
        return {}
    if config.teacher not in (OWN, NO_TEACHER):
        run_folder = RunFolder(Path(config.out))
        on_first(world, lambda: check_teacher(config.teacher, run_folder, lambda: _find(config.teacher, config)))
    with session(recipe, config, config.out, MAY_CHANGE_ON_RESUME, world=world) as own:
        task = _task(config, own.console, init="--init" if start else None)
        model = _student(config, start, task, own.console)
        normalization = start.normalization if start else choose_normalization(config.normalization, task.part.manifest)
        fixed = config.cache_teacher.views or None
        run = SupervisedRun(own, config, task, model, normalization, views=config.views, fixed_views=fixed)
        if config.teacher == NO_TEACHER:
            return run.train(run.supervision.objective)[1]
        where = _train_first(recipe, config, own)
        if where is None:
            own.close("preempted", 0)
            return {}
        tuition, shares = _tuition(run, where, config)
        return run.train(tuition.objective, shares=shares)[1]


def _task(config: DistillConfig, console: Console, *, init: str | None = None) -> Task:
    manifest = read_manifest(config.data)
    check_channels(config.encoder.channels, [Part(manifest, config.split)], config.held_out, init=init)
    return read_task(config, manifest, console, unlabelled=config.unlabelled)


def _student(config: DistillConfig, start: ModelSource | None, task: Task, console: Console) -> nn.Module:
    model = build_classifier(config, start, task.classes, console.say)
    prepare_student(model, config.distillation)
    return model


def _train_first(recipe: str, config: DistillConfig, own: Session) -> str | None:
    """Where the teacher is; None where its own training was asked to stop."""
    if config.teacher != OWN:
        return config.teacher
    trained = train_own_teacher(recipe, config, own)
    return None if trained is None else str(trained)


def _find(where: str, config: DistillConfig) -> ModelSource:
    architecture = named_architecture(config.teacher_architecture, config.encoder.channels)
    return find_teacher(where, architecture=architecture)


def _open_teacher(where: str, config: DistillConfig, task: Task, own: Session) -> Teacher:
    source = _find(where, config)
    said = check_classes(source, task.classes, "--teacher")
    check_teacher_channels(source, config.encoder.channels, "--teacher")
    teacher = Teacher(source, own.world)
    for sentence in (teacher.sentence(config.encoder.size), said):
        if sentence is not None:
            own.console.say(sentence)
    on_first(own.world, lambda: record_teacher(source, teacher.sha256, own.run))
    return teacher


def _tuition(
    run: SupervisedRun, where: str, config: DistillConfig
) -> tuple[Tuition, Mapping[str, Callable[[], float]]]:
    """What a step computes, and the teacher's share of the time; with a cache the teacher is let go of."""
    teacher = _open_teacher(where, config, run.task, run.own)
    if config.cache_teacher.is_on:
        cache, device = _cached(run, teacher, config), run.own.world.device

        def looked_up(batch: Batch, _: Tensor) -> Tensor:
            return cache.lookup(batch).to(device, non_blocking=True)

        return Tuition(run.supervision, config.distillation, looked_up), {}

    def asked(_: Batch, images: Tensor) -> Tensor:
        return teacher.logits(images, run.normalization)

    return Tuition(run.supervision, config.distillation, asked), {"teacher": teacher.clock.seconds}


def _cached(run: SupervisedRun, teacher: Teacher, config: DistillConfig) -> TeacherCache[Tensor]:
    source, normalization, kept = teacher.source, run.normalization, config.cache_teacher
    facts = TeacherFacts(
        source.name,
        teacher.sha256,
        source.backbone.size,
        source.normalization,
        len(run.task.classes),
        repr(source.backbone),
    )
    views = FixedViews(run.task.part, run.task.members, run.view, config.seed, kept.views)
    identity = LogitIdentity(
        facts, config.precision, views.facts, normalization, config.augmentation.erasing, kept.classes
    )
    return open_or_fill(
        kept,
        identity,
        views,
        prepare=run.supervision.pixels,
        judge=lambda images: teacher.logits(images, normalization),
        world=run.own.world,
        console=run.own.console,
        workers=run.workers,
    )
