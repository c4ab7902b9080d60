"""What a model card tells of a run's training, as rows of Markdown text; without names of machines and of folders."""

import json
from collections.abc import Iterator

import numpy as np

from finetune.card_facts import Row, data_name, model_name, plain
from finetune.classify_config import ClassifyConfig
from finetune.finished_run import FinishedRun
from finetune.report_teacher import how_often_asked, learnt_features, learnt_logits
from launch.console import Console
from launch.strict_json import read_json, to_json
from pretrain.distill_config import OWN, DistillConfig
from pretrain.feature_distill_config import FeatureDistillConfig
from pretrain.supervised_config import SCRATCH, SupervisedConfig
from pretrain.task import read_task

_PLACES = ("data", "out", "init", "init_from", "resume", "teacher")


def how_it_was_made(run: FinishedRun) -> list[Row]:
    """Recipe, teacher, data, length and seed of the training."""
    config, manifest = run.config, run.manifest
    split = manifest.split(config.split)
    start = run.started_from
    images, labels = _images_and_labels(run)
    return [
        ("Method", f"{_method(run)}, recipe {plain(run.recipe)}"),
        *_teaching(run),
        ("Started from", "new weights" if start == SCRATCH else f"the weights of {model_name(start)}"),
        ("Data", f"{plain(data_name(manifest))}, split {plain(config.split)}"),
        ("Fingerprint of the split", f"`{split.fingerprint}`"),
        ("Images", f"{images:,}"),
        ("Labels", labels),
        ("Epochs", f"{config.epochs:g}, in {run.checkpoint.step:,} steps"),
        *_views(run),
        ("Batch", f"{config.batch_size:,}"),
        *_averaging(run),
        ("Seed", str(config.seed)),
    ]


def teacher_name(run: FinishedRun) -> str | None:
    """What a run's teacher is called; None without one, and where the run has trained it itself."""
    if run.teacher is None or _trained_its_teacher(run):
        return None
    return f"{model_name(run.teacher.name)} ({plain(run.teacher.architecture)})"


def settings(run: FinishedRun) -> str:
    """All other settings, as JSON."""
    told = {name: value for name, value in to_json(run.config).items() if name not in _PLACES}
    if isinstance(run.config, DistillConfig | FeatureDistillConfig):
        told["cache_teacher"].pop("folder")
    if isinstance(run.config, DistillConfig) and not _trained_its_teacher(run):
        told.pop("own_teacher")  # nobody was trained so
    return json.dumps(told, indent=1, ensure_ascii=False)


def trained_with(run: FinishedRun) -> list[Row]:
    """The machine and the versions of the training."""
    found = read_json(run.folder.environment)
    versions = {"python": found["python"], **found["versions"]}
    revision = found["git"]
    rows = [
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)),
        ("Machine", f"{found['platform']}; {found['cpu_count']} CPU cores; {found['device']}"),
        ("Processes", str(found["world"])),
        ("Threads of each", str(found["threads"])),
        ("Precision", run.config.precision),
    ]
    if revision is not None:
        changed = ", with changes" if revision["dirty"] else ""
        rows.insert(1, ("Revision of sherd", f"`{revision['revision']}`{changed}"))
    return [(name, plain(value) if name == "Machine" else value) for name, value in rows]


def _method(run: FinishedRun) -> str:
    config = run.config
    if isinstance(config, FeatureDistillConfig):
        return "pre-trained on the features of a teacher"
    if isinstance(config, DistillConfig):
        if run.teacher is not None:
            return "trained by distillation from a teacher's logits (arXiv:2012.12877)"
        is_third = config.augmentation.three_augment
        return f"trained on labels alone, as {'DeiT III (arXiv:2204.07118)' if is_third else 'DeiT (arXiv:2012.12877)'}"
    if isinstance(config, ClassifyConfig):
        return "trained as a classifier" if run.started_from == SCRATCH else "fine-tuned as a classifier"
    if isinstance(config, SupervisedConfig):
        return "trained on labels alone, to be the teacher of another model"
    return "pre-trained as a masked autoencoder (arXiv:2111.06377)"


def _teaching(run: FinishedRun) -> Iterator[Row]:
    """Who taught the model, and what."""
    config, teacher = run.config, run.teacher
    if teacher is None:
        return
    who = teacher_name(run) or f"{plain(teacher.architecture)}, trained first on the same labels"
    yield "Teacher", f"{who}; SHA-256 of its weights `{teacher.sha256}`"
    if isinstance(config, DistillConfig):
        yield "Learnt of it", learnt_logits(config.distillation)
        yield "The teacher's logits", how_often_asked(config.cache_teacher)
    if isinstance(config, FeatureDistillConfig):
        yield "Learnt of it", learnt_features(config.class_weight, config.patch_weight)
        yield "The teacher's features", how_often_asked(config.cache_teacher)


def _trained_its_teacher(run: FinishedRun) -> bool:
    return isinstance(run.config, DistillConfig) and run.config.teacher == OWN


def _images_and_labels(run: FinishedRun) -> tuple[int, str]:
    """How many images took part, and how many of them with which labels."""
    config, everyone = run.config, run.manifest.split(run.config.split).present
    if not isinstance(config, SupervisedConfig):
        return everyone, "none used"
    takes_all = isinstance(config, DistillConfig) and config.unlabelled
    task = read_task(config, run.manifest, Console(rank=1), unlabelled=takes_all)
    images = everyone if task.members is None else len(np.unique(task.members))
    if config.label_field is not None:
        return images, f"several an image, of the field {plain(config.label_field)}"
    labels = "all" if config.labels is None else f"{config.labels:,} images a class, chosen by the seed"
    without = 0 if task.labelled is None else images - len(task.labelled)
    return images, labels + (f"; {without:,} of the images took part without a label" if without else "")


def _views(run: FinishedRun) -> Iterator[Row]:
    config = run.config
    if isinstance(config, DistillConfig | FeatureDistillConfig):
        repeated = " (repeated augmentation, arXiv:1901.09335)" if config.views > 1 else ""
        yield "Views in an epoch", f"{config.views:,} of each image{repeated}"


def _averaging(run: FinishedRun) -> Iterator[Row]:
    config = run.config
    if isinstance(config, SupervisedConfig | FeatureDistillConfig) and config.average is not None:
        yield "Weights", f"the average over training, with a decay of {config.average:g} a step"
