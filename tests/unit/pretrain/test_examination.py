"""The doctor's round, with measured values put in by hand: what comes of them, and of a rehearsal that fails."""

import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from data_pipeline.manifest import write_manifest
from launch.console import Console
from launch.settings import parse
from pretrain import examination
from pretrain.check_rates import Loaded, Read
from pretrain.doctor_config import recipes
from pretrain.examination import Examination
from pretrain.out_of_memory import OutOfMemoryError
from pretrain.rehearsal import Rehearsed, Size
from pretrain.world import World

DONE = Rehearsed(16, 40, 1_000.0, 0.0, 10**9, 880_000, 2_640_000, ("data: the step binds",))
TRIED = "out of memory with 16 images at once; tried: with --accumulate 4 a step fits"


@pytest.fixture
def data(datasets: ModuleType, tmp_path: Path) -> str:
    write_manifest(datasets.write_dataset(tmp_path / "data", [300]))
    return str(tmp_path / "data")


def examine(data: str, out: Path, monkeypatch: pytest.MonkeyPatch, rehearse: Any, *more: str) -> tuple[bool, str]:
    """Whether the run would work, and what is said, where these are the rates."""
    words = ("digits", "--data", data, "--out", str(out), "--gpus", "4", *more)
    recipe, visit = parse("The doctor.", recipes(), words)
    values = {
        "measure_reading": lambda *_: Read(10**6, 1_000, 0.1, 10**6, is_remote=False),
        "measure_loading": lambda *_: Loaded(800.0, 1, "decode"),
        "size_of_rehearsal": lambda *_: Size(16, 1),
        "rehearse": rehearse,
    }
    for name, value in values.items():
        monkeypatch.setattr(examination, name, value)
    said = io.StringIO()
    return Examination(recipe, visit, World("fp32"), Console(stream=said)).run(), said.getvalue()


def test_what_the_measured_comes_to(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    report = tmp_path / "report.json"
    works, said = examine(data, tmp_path / "run", monkeypatch, lambda *_: DONE, "--report", str(report))
    assert works
    assert "training waits 20% of the time" in said
    # 704 steps of 16 images of each process, of which the loader gives 800 a second.
    assert "704 steps of 20.0 ms (the loader binds): 0:00:14 on 4 processes" in said
    assert "13.2 MB: 4 checkpoints of 2.6 MB, and the trained model" in said
    found = json.loads(report.read_text())
    assert found["prognosis"]["compute"] == pytest.approx(0.016)
    assert found["prognosis"]["traffic"] is None
    assert found["said"] == ["data: the step binds"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "report.json"]


def test_a_step_that_does_not_fit_the_memory(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> Rehearsed:
        raise OutOfMemoryError(TRIED)

    works, said = examine(data, tmp_path / "run", monkeypatch, fail)
    assert not works
    assert "a step does not fit" in said
    assert f"to change: {TRIED}" in said
    assert "duration" not in said


def test_a_run_that_ends_with_an_error(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> Rehearsed:
        raise ValueError("--init-from X: no model there")

    works, said = examine(data, tmp_path / "run", monkeypatch, fail)
    assert not works
    assert "the run ends with an error" in said
    assert "to change: --init-from X: no model there" in said


def test_a_folder_that_is_a_file(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "run").write_text("")
    works, said = examine(data, tmp_path / "run", monkeypatch, lambda *_: DONE)
    assert not works
    assert "it is a file" in said
    assert "disk space" not in said
