"""The teacher that is trained first: what it has of its student's options, and when it is done."""

import json
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from launch.console import Console
from launch.run_folder import RunFolder
from pretrain import own_teacher
from pretrain.augment_config import AugmentationConfig, MixingConfig
from pretrain.backbone_config import BackboneConfig
from pretrain.config import OptimizerConfig
from pretrain.distill_config import DistillConfig, OwnTeacherConfig
from pretrain.model_folder import WEIGHTS
from pretrain.own_teacher import own_teacher_config, train_own_teacher
from pretrain.session import Session
from pretrain.supervised_config import SupervisedConfig
from pretrain.world import World

STUDENT = DistillConfig(
    BackboneConfig("vit_tiny_patch16_224", (8, 8), (4, 4), channels=1, width=24),
    epochs=6.0,
    batch_size=32,
    optimizer=OptimizerConfig(1e-3, warmup_epochs=1.0, min_lr=1e-5),
    data="d",
    init="weights",
    out="r",
    teacher="own",
    own_teacher=OwnTeacherConfig(BackboneConfig("test_resnet")),
    views=2,
    head="keep",
    image_size=(8, 8),
    patch_size=(4, 4),
    pool="token",
    layer_decay=0.5,
    drop_path=0.2,
    average=0.9,
    resume="elsewhere",
    labels=7,
    validation=0.1,
    unlabelled=True,
    seed=3,
    augmentation=AugmentationConfig(erasing=0.1),
    mixing=MixingConfig(0.3, 0.0),
    precision="bf16",
    split="some",
    held_out="others",
)
OF_ITS_OWN = {"encoder", "epochs", "optimizer", "init", "out", "resume", "head", "pool", "image_size", "patch_size"}
OF_ITS_OWN |= {"average", "drop_path", "layer_decay"}


def test_it_learns_as_its_student_would_alone(tmp_path: Path):
    found = own_teacher_config(STUDENT, tmp_path)
    assert type(found) is SupervisedConfig
    for field in fields(SupervisedConfig):
        assert (getattr(found, field.name) == getattr(STUDENT, field.name)) == (field.name not in OF_ITS_OWN), (
            field.name
        )
    assert found.encoder == BackboneConfig("test_resnet", (8, 8), channels=1)
    assert (found.epochs, found.optimizer) == (12.0, STUDENT.own_teacher.optimizer)
    assert (found.init, found.head, found.resume, found.out) == ("none", "fresh", None, str(tmp_path))
    assert (found.pool, found.average, found.drop_path, found.layer_decay) == ("own", None, 0.0, None)


def test_it_may_have_a_size_an_epoch_count_and_a_batch_of_its_own(tmp_path: Path):
    own = OwnTeacherConfig(BackboneConfig("test_resnet", (16, 24)), epochs=3.0, batch_size=8)
    found = own_teacher_config(replace(STUDENT, own_teacher=own), tmp_path)
    assert (found.encoder.image_size, found.epochs, found.batch_size) == ((16, 24), 3.0, 8)


def test_a_model_that_timm_does_not_know_is_told_of_as_the_teachers(tmp_path: Path):
    unknown = replace(STUDENT, own_teacher=OwnTeacherConfig(BackboneConfig("resnet_18")))
    with pytest.raises(ValueError, match=r"^--own-teacher: --encoder\.name resnet_18 is no model of timm .*: resnet18"):
        own_teacher_config(unknown, tmp_path)


@pytest.mark.parametrize(
    ("ended", "has_weights", "is_done"), [("done", True, True), ("done", False, False), ("preempted", True, False)]
)
def test_it_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: str, has_weights: bool, is_done: bool
):
    class Trained(Exception):
        """It would be."""

    def session(*_: Any, **__: Any) -> None:
        raise Trained

    monkeypatch.setattr(own_teacher, "session", session)
    said = StringIO()
    own = Session(World("fp32"), Console(stream=said), RunFolder(tmp_path), {})
    config = replace(STUDENT, out=str(tmp_path))
    with pytest.raises(Trained):
        train_own_teacher("recipe", config, own)
    told = f"training the teacher first, in {tmp_path}/teacher: a file named stop there, or TERM, stops it\n"
    assert said.getvalue() == told
    (tmp_path / "teacher/model").mkdir(parents=True)
    (tmp_path / "teacher/exit.json").write_text(json.dumps({"status": ended}))
    if has_weights:
        (tmp_path / "teacher/model" / WEIGHTS).touch()
    if is_done:
        assert train_own_teacher("recipe", config, own) == tmp_path / "teacher"
        assert said.getvalue() == told
    else:
        with pytest.raises(Trained):
            train_own_teacher("recipe", config, own)
