"""A teacher that is trained first, on the images and labels of its student, in a folder inside the student's run."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from data_pipeline.manifest import read_manifest
from data_pipeline.rows import Part
from launch.run_folder import RunFolder
from launch.strict_json import read_json
from pretrain.architectures import complete
from pretrain.classifier import build_classifier
from pretrain.distill_config import DistillConfig
from pretrain.first_rank import on_first
from pretrain.model_folder import WEIGHTS
from pretrain.pixels import check_channels, choose_normalization
from pretrain.session import Session, session
from pretrain.supervised_config import MAY_CHANGE_ON_RESUME, SCRATCH, SupervisedConfig
from pretrain.supervised_run import SupervisedRun
from pretrain.task import read_task

FOLDER = "teacher"


def train_own_teacher(recipe: str, config: DistillConfig, own: Session) -> Path | None:
    """The folder of the finished teacher, trained now unless it has been; None where that was asked to stop.

    It learns as its student would without a teacher: the same labels, augmentations and seed. Every process must call
    it.

    Raises:
        ValueError: as any supervised run.
    """
    folder = Path(config.out) / FOLDER
    if on_first(own.world, lambda: _is_done(folder)):
        return folder
    own.console.say(f"training the teacher first, in {folder}: a file named stop there, or TERM, stops it")
    its = own_teacher_config(config, folder)
    with session(recipe, its, its.out, MAY_CHANGE_ON_RESUME, world=own.world, console=own.console) as inner:
        manifest = read_manifest(its.data)
        task = read_task(its, manifest, inner.console)
        check_channels(its.encoder.channels, [Part(manifest, its.split)], its.held_out)
        normalization = choose_normalization(its.normalization, manifest)
        model = build_classifier(its, None, task.classes, inner.console.say)
        try:
            run = SupervisedRun(inner, its, task, model, normalization)
        except ValueError as error:
            raise ValueError(f"--own-teacher: {error}") from error
        ending, _ = run.train(run.supervision.objective)
    return folder if ending.status == "done" else None


def own_teacher_config(config: DistillConfig, folder: Path) -> SupervisedConfig:
    """Of the teacher's run in `folder`: the student's config, which `resolve` has given, but for what is of its model.

    Raises:
        ValueError: timm knows no such model, or the two do not go together.
    """
    teacher = config.own_teacher
    size = teacher.encoder.image_size or config.encoder.image_size
    try:
        encoder = complete(replace(teacher.encoder, image_size=size, channels=config.encoder.channels))
    except ValueError as error:
        raise ValueError(f"--own-teacher: {error}") from error
    values: dict[str, Any] = {each.name: getattr(config, each.name) for each in fields(SupervisedConfig)}
    values |= {"encoder": encoder, "optimizer": teacher.optimizer, "epochs": config.own_teacher_epochs}
    values |= {"batch_size": teacher.batch_size or config.batch_size, "out": str(folder)}
    values |= {"init": SCRATCH, "resume": None, "image_size": None, "patch_size": None, "head": "fresh", "pool": "own"}
    values |= {"average": None, "drop_path": 0.0, "drop_path_rule": "growing", "layer_decay": None}
    return SupervisedConfig(**values)


def _is_done(folder: Path) -> bool:
    ended = RunFolder(folder).exit
    return ended.is_file() and read_json(ended)["status"] == "done" and (folder / "model" / WEIGHTS).is_file()
