"""A run keeps the teacher that it was begun with, wherever that lies."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from launch.run_folder import RunFolder
from pretrain.backbone_config import BackboneConfig
from pretrain.model_source import ModelSource, Preparation
from pretrain.pixels import IMAGENET
from pretrain.teacher_record import TEACHER_FILE, check_teacher, record_teacher

SOURCE = ModelSource(
    "here",
    Path("here"),
    BackboneConfig("test_vit"),
    IMAGENET,
    Preparation("bicubic", 1.0, "center"),
    classes=0,
    class_names=None,
    pool="own",
    is_ours=False,
    is_folder=True,
)


def test_another_place_is_the_same_teacher_and_other_weights_are_not(tmp_path: Path):
    run = RunFolder(tmp_path)
    record_teacher(SOURCE, "ab" * 32, run)
    written = (tmp_path / TEACHER_FILE).read_bytes()
    assert json.loads(written) == {"name": "here", "architecture": "test_vit", "sha256": "ab" * 32}
    run.checkpoints.mkdir()
    (run.checkpoints / "latest").write_text("step-00000001")
    record_teacher(replace(SOURCE, name="there"), "ab" * 32, run)
    assert (tmp_path / TEACHER_FILE).read_bytes() == written
    message = (
        f"--teacher there: the run in {tmp_path} was begun with another teacher, here "
        f"(weights {'ab' * 8}, now {'cd' * 8}); give that one, or another --out"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        record_teacher(replace(SOURCE, name="there"), "cd" * 32, run)


def test_a_run_that_was_never_begun_may_have_another_teacher(tmp_path: Path):
    run = RunFolder(tmp_path)
    record_teacher(SOURCE, "ab" * 32, run)
    record_teacher(replace(SOURCE, name="there"), "cd" * 32, run)
    assert json.loads((tmp_path / TEACHER_FILE).read_text())["sha256"] == "cd" * 32


def test_a_teacher_of_another_name_is_looked_at_before_a_run_goes_on(tmp_path: Path):
    run = RunFolder(tmp_path)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"1")
    source = replace(SOURCE, path=weights)
    asked: list[str] = []

    def find() -> ModelSource:
        asked.append("there")
        return replace(source, name="there")

    check_teacher("there", run, find)
    record_teacher(source, source.sha256, run)
    run.checkpoints.mkdir()
    (run.checkpoints / "latest").write_text("step-00000001")
    check_teacher("here", run, find)
    assert asked == [], "a new run, or the same name, about which the run itself will say more"
    check_teacher("there", run, find)
    weights.write_bytes(b"2")
    with pytest.raises(ValueError, match=re.escape(f"--teacher there: the run in {tmp_path} was begun with another")):
        check_teacher("there", run, find)
    assert asked == ["there", "there"]
