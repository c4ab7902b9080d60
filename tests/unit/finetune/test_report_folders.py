"""What a report takes for a run, a probe or a benchmark, and what it makes of damaged files."""

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from finetune.benchmark_config import BenchmarkConfig
from finetune.classify_config import ClassifyConfig
from finetune.probe_recipes import RECIPES as PROBES
from finetune.report_config import ReportConfig
from finetune.report_facts import gather_facts
from finetune.report_folders import Kind, kind_of, read_folder, read_known, sub_runs
from pretrain.distill_config import DistillConfig
from pretrain.feature_distill_config import FeatureDistillConfig
from pretrain.mae_config import MaeConfig
from pretrain.supervised_config import SupervisedConfig


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def _line(step: int, **more: Any) -> dict[str, Any]:
    rates = {"images_per_second": 100.0, "data_wait": 0.25, "memory": 1000 * step}
    return {"step": step, "epoch": step / 10, "loss": 1 / step, "lr": 1e-3, "grad_norm": 1.0, **rates, **more}


def test_kinds(tmp_path: Path):
    _write(tmp_path / "pretrained/config.json", {"recipe": "digits", "objective": {}})
    _write(tmp_path / "tuned/config.json", {"recipe": "digits", "init": "none", "labels": None})
    _write(tmp_path / "probe/probe.json", {})
    _write(tmp_path / "probe under way/config.json", {"recipe": "digits", "init": "runs/x", "knn": {}})
    _write(tmp_path / "benchmark/benchmark.json", {})
    _write(tmp_path / "benchmark under way/config.json", {"benchmark": "digits", "recipe": "digits", "init": "runs/x"})
    kinds = {path.name: read_folder(str(path)).kind for path in tmp_path.iterdir()}
    assert kinds == {
        "pretrained": "pre-training",
        "tuned": "fine-tuning",
        "probe": "probe",
        "probe under way": "probe",
        "benchmark": "benchmark",
        "benchmark under way": "benchmark",
    }


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (MaeConfig, "pre-training"),
        (FeatureDistillConfig, "feature distillation"),
        (DistillConfig, "distillation"),
        (ClassifyConfig, "fine-tuning"),
        (SupervisedConfig, "training"),
        *((probe, "probe") for probe in dict.fromkeys(type(recipe.config) for recipe in PROBES.values())),
    ],
)
def test_every_config_is_known_by_its_fields(config: type, kind: Kind):
    names = {field.name for field in fields(config)}
    assert kind_of(dict.fromkeys(["recipe", *names])) == kind
    if config is ClassifyConfig:  # as it was before it had these
        assert kind_of(dict.fromkeys(["recipe", *(names - {"trainable", "initialization"})])) == kind


def test_a_benchmark_is_told_from_the_runs_of_its_recipe():
    names = {field.name for field in fields(BenchmarkConfig)}
    assert kind_of(dict.fromkeys(["benchmark", *names])) == "benchmark"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, "nothing: there is no such folder"),
        ({"x/": ""}, "an empty folder"),
        ({"x": "text"}, "a file"),
        ({"x/manifest.json": "{}"}, "a dataset folder"),
        ({"x/model.safetensors": "", "x/config.json": "{}"}, "a model folder"),
        ({f"x/{name}": "" for name in "dacb"}, "a folder with a, b, c and 1 more"),
        ({"x/config.json": '{"format": 1}'}, "a folder with config.json"),
    ],
)
def test_other_paths_are_refused(tmp_path: Path, files: dict[str, str], found: str):
    for name, text in files.items():
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            _write(tmp_path / name, text)
    where = str(tmp_path / "x")
    message = (
        f"{where}: expected the folder of a run (config.json with a recipe), a probe (probe.json) or a benchmark "
        f"(benchmark.json), got {found}; give what --out named when it was made"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        read_folder(where)


def test_a_run_is_read_as_far_as_it_has_come(tmp_path: Path):
    _write(tmp_path / "config.json", {"recipe": "digits", "batch_size": 50})
    folder = read_folder(str(tmp_path))
    assert (folder.status, folder.metrics, folder.problems) == ("running or killed", (), ())
    assert gather_facts(folder).steps is gather_facts(folder).loss is gather_facts(folder).seconds is None
    torn = "".join(json.dumps(line) + "\n" for line in (_line(10), _line(20))) + '{"step": 3'
    _write(tmp_path / "metrics.jsonl", torn)
    folder = read_folder(str(tmp_path))
    assert [line["step"] for line in folder.training] == [10, 20]
    assert folder.problems == ()


def test_damaged_files_are_told_of(tmp_path: Path):
    _write(tmp_path / "config.json", {"recipe": "digits"})
    _write(tmp_path / "exit.json", '{"status": "done"')
    _write(tmp_path / "metrics.jsonl", 'oops\n{"step": 1, "loss": 2}\n')
    folder = read_folder(str(tmp_path))
    assert folder.metrics == ()
    assert len(folder.problems) == 2
    assert "line 1 is not a JSON object with a step" in folder.problems[0]
    assert "exit.json: not valid JSON" in folder.problems[1]


def test_facts(tmp_path: Path):
    lines = [
        _line(10),
        _line(20, images_per_second=200.0, data_wait=0.0),
        {"step": 20, "epoch": 2.0, "top1": 0.5, "top5": 1.0, "evaluation_seconds": 3.0},
        _line(40, loss=None, images_per_second=None),
        {"step": 40, "epoch": 4.0, "top1": 0.4, "top5": 1.0, "evaluation_seconds": 4.0},
    ]
    _write(tmp_path / "config.json", {"recipe": "digits", "init": "none", "labels": 5, "batch_size": 50})
    _write(tmp_path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    facts = gather_facts(read_folder(str(tmp_path)))
    assert facts.steps == 40
    assert facts.loss == 1 / 20
    assert facts.best == ("top-1", 0.5)
    assert facts.images_per_second == 150.0
    assert facts.seconds == pytest.approx(10 * 50 / 100 + 10 * 50 / 200 + 3 + 4)
    assert facts.data_wait == pytest.approx(0.25 * 5 / 7.5)
    assert facts.memory == 40_000


def test_the_share_of_a_teacher(tmp_path: Path):
    _write(tmp_path / "config.json", {"recipe": "digits", "distillation": {}, "batch_size": 50})
    lines = [_line(10, teacher=0.5), _line(20, images_per_second=200.0, teacher=0.8), _line(30, teacher=None)]
    _write(tmp_path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert gather_facts(read_folder(str(tmp_path))).teacher == pytest.approx((0.5 * 5 + 0.8 * 2.5) / 12.5)
    _write(tmp_path / "metrics.jsonl", json.dumps(_line(10)) + "\n")
    assert gather_facts(read_folder(str(tmp_path))).teacher is None


def test_a_relative_dataset_is_meant_from_where_the_run_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    there, here = tmp_path / "there", tmp_path / "here"
    _write(there / "runs/x/config.json", {"recipe": "digits", "data": "data/digits", "out": "runs/x"})
    _write(here / "data/digits/manifest.json", {})
    monkeypatch.chdir(here)
    folder = read_folder(str(there / "runs/x"))
    assert folder.find_data() == Path("data/digits")
    _write(there / "data/digits/manifest.json", {})
    assert folder.find_data() == there / "data/digits"
    monkeypatch.chdir(there / "runs")
    assert read_folder("x").find_data() == there / "data/digits"


def test_a_dataset_that_is_gone(tmp_path: Path):
    _write(tmp_path / "config.json", {"recipe": "digits", "data": "/gone/digits", "out": "/elsewhere"})
    with pytest.raises(ValueError, match="dataset folder /gone/digits is not there"):
        read_folder(str(tmp_path)).find_data()


def test_sub_runs_are_found_by_name(tmp_path: Path):
    _write(tmp_path / "benchmark.json", {})
    _write(tmp_path / "b/config.json", {"recipe": "digits", "init": "none"})
    _write(tmp_path / "a/config.json", {"recipe": "digits", "init": "none"})
    _write(tmp_path / "model/config.json", {"architecture": "vit"})
    _write(tmp_path / "torn/config.json", "{")
    assert [run.path.name for run in sub_runs(read_folder(str(tmp_path)))] == ["a", "b"]


@dataclass(frozen=True)
class _Inner:
    top1: float


@dataclass(frozen=True)
class _Outer:
    name: str
    rows: tuple[_Inner, ...]
    best: _Inner | None = None


def test_what_a_file_holds_beside_the_known_is_left_aside(tmp_path: Path):
    path = tmp_path / "x.json"
    _write(path, {"name": "a", "new": 1, "rows": [{"top1": 0.5, "lr": 1}], "best": {"top1": 1, "seed": 0}})
    assert read_known(_Outer, path) == _Outer("a", (_Inner(0.5),), _Inner(1.0))
    _write(path, {"name": "a", "rows": [{"top1": "high"}]})
    with pytest.raises(ValueError, match=r"x\.json: rows"):
        read_known(_Outer, path)
    with pytest.raises(ValueError, match=r"y\.json is not there"):
        read_known(_Outer, tmp_path / "y.json")


def test_options(tmp_path: Path):
    assert ReportConfig(("runs/x",)).out == "report.html"
    with pytest.raises(ValueError, match="expected at least one folder, got none"):
        ReportConfig(())
    with pytest.raises(ValueError, match=r"--out metrics\.jsonl: expected the name of a page, ending in \.html"):
        ReportConfig(("runs/x",), out="metrics.jsonl")
    (tmp_path / "a.html").mkdir()
    with pytest.raises(ValueError, match="is a folder, expected the name of a page"):
        ReportConfig(("runs/x",), out=str(tmp_path / "a.html"))
    with pytest.raises(ValueError, match="--images expects a positive number, got 0"):
        ReportConfig(("runs/x",), images=0)
