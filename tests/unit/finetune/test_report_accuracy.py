"""Tables and matrices say what evaluation.json, probe.json and benchmark.json hold."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.report_accuracy import accuracy_blocks, with_error
from finetune.report_blocks import NOTHING, Bars, Matrix, Note, Plot, Properties, Table
from finetune.report_comparisons import benchmark_blocks, best_pretrained, sub_run_blocks
from finetune.report_folders import Folder, read_folder
from finetune.report_probe import probe_blocks


def _folder(path: Path, **files: Any) -> Folder:
    """A folder with such JSON files, `_json` left off their names."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return read_folder(str(path))


def _evaluation(confusion: list[list[int]], **more: Any) -> dict[str, Any]:
    total, right = sum(map(sum, confusion)), sum(row[number] for number, row in enumerate(confusion))
    top1 = right / total
    names = [f"class {number}" for number in range(len(confusion))]
    counts = list(map(sum, confusion))
    shares = {"top1": top1, "top5": 1.0, "mean_class_accuracy": 0.5, "nll": 0.25}
    sizes = {"step": 1200, "split": "test", "images": total, "undecodable": 0}
    return {**sizes, **shares, "classes": names, "images_per_class": counts, "confusion": confusion, **more}


def _run(path: Path, evaluation: dict[str, Any]) -> Folder:
    return _folder(path, config={"recipe": "digits", "init": "none", "labels": None}, evaluation=evaluation)


def test_intervals_stand_below_their_figures(tmp_path: Path):
    ends = {"top1": [0.25, 0.9], "top5": [1.0, 1.0], "mean_class_accuracy": [0.3, 0.7], "nll": [0.2, 0.31]}
    intervals = {"method": "percentile", "level": 0.95, "draws": 1000, "seed": 0, **ends, "ece": [0.05, 0.2]}
    folder = _run(tmp_path, _evaluation([[3, 1], [2, 2]], ece=0.125, brier=0.5, intervals=intervals))
    table = accuracy_blocks(folder, "a")[0]
    assert isinstance(table, Table)
    assert table.head[-2:] == ("expected calibration error", "images")
    assert table.rows[0][-2:] == ("12.50%", "8")
    assert table.rows[1] == (
        "25.00% to 90.00%",
        "100.00% to 100.00%",
        "30.00% to 70.00%",
        "0.2 to 0.31 nats",
        "5.00% to 20.00%",
        "",
    )
    assert table.caption.text.endswith("below it the 95 % bootstrap interval from 1,000 draws.")


def test_few_classes_are_a_matrix_of_counts_shaded_by_row(tmp_path: Path):
    folder = _run(tmp_path, _evaluation([[3, 1, 0], [0, 0, 0], [2, 0, 2]], undecodable=7))
    table, matrix, bars = accuracy_blocks(folder, "a")
    assert isinstance(table, Table)
    cells = dict(zip(table.head, table.rows[0], strict=True))
    assert cells["top-1"] == "62.50%\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}17.12%"  # 5 of 8
    assert (cells["mean over classes"], cells["negative log-likelihood"], cells["images"]) == (
        "50.00%",
        "0.25 nats",
        "8",
    )
    assert "after step 1,200" in table.caption.text
    assert "7 more do not decode" in table.caption.text
    assert table.caption.sources == (f"{tmp_path}/evaluation.json",)
    assert isinstance(matrix, Matrix)
    assert matrix.counts == ((3, 1, 0), (0, 0, 0), (2, 0, 2))
    assert matrix.shares == ((0.75, 0.25, 0.0), (0.0, 0.0, 0.0), (0.5, 0.0, 0.5))
    assert isinstance(bars, Bars)
    assert [(bar.label, bar.share, bar.text) for bar in bars.bars] == [
        ("class 2", 0.5, "50.0% of 4"),
        ("class 0", 0.75, "75.0% of 4"),
        ("class 1", None, "no images"),
    ]


def test_many_classes_are_a_list_of_the_most_frequent_confusions(tmp_path: Path):
    confusion = [[100 if row == column else 0 for column in range(40)] for row in range(40)]
    confusion[5][9] = 25
    confusion[1][0] = 3
    for row in range(10, 35):
        confusion[row][row + 1] = 1
    _, table, bars = accuracy_blocks(_run(tmp_path, _evaluation(confusion)), "a")
    assert isinstance(table, Table)
    assert len(table.rows) == 20
    assert table.rows[0] == ("class 5", "class 9", "25", "20.0%")
    assert table.rows[1] == ("class 1", "class 0", "3", "2.9%")
    assert "20 most frequent confusions of 27 that occur, among 40 classes" in table.caption.text
    assert isinstance(bars, Bars)
    assert (len(bars.bars), len(bars.more)) == (20, 20)
    assert bars.bars[0].label == "class 5"
    assert "20 of 40 unfolded" in bars.caption.text


def test_a_matrix_that_does_not_fit_the_classes_is_refused(tmp_path: Path):
    broken = {**_evaluation([[1, 0], [0, 1]]), "confusion": [[1, 0], [0]]}
    with pytest.raises(ValueError, match=r"evaluation\.json: confusion: expected 2 rows of 2 counts"):
        accuracy_blocks(_run(tmp_path, broken), "a")
    with pytest.raises(ValueError, match=r"evaluation\.json is not there"):
        accuracy_blocks(_folder(tmp_path / "other", config={"recipe": "r", "init": "none", "labels": 1}), "a")


def test_no_images_have_no_accuracy():
    assert with_error(0.0, 0) == NOTHING
    assert with_error(1.0, 10).startswith("100.00%")


def _benchmark(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"data": "data/digits", "init": "runs/mae", "rows": list(rows), "seconds": 1.0}


def _row(labels: int | None, scratch: list[Any], pretrained: list[Any], pixels: list[Any]) -> dict[str, Any]:
    how = {"base_lr": 0.016, "steps": 100, "epochs": 20.0}
    return {
        "labels": labels,
        "images": 1000,
        "seeds": [0, 1],
        "pixels_1nn": pixels,
        "scratch": {**how, "top1": scratch, "tried": {"0.016": 0.5}},
        "pretrained": {**how, "top1": pretrained},
    }


def test_a_benchmark_as_a_figure_and_as_numbers(tmp_path: Path):
    rows = _row(10, [0.5, 0.6], [0.7, 0.8], [0.4, 0.4]), _row(None, [0.9], [0.95], [None])
    folder = _folder(tmp_path, benchmark=_benchmark(*rows))
    assert best_pretrained(folder) == 0.95
    plot, table = benchmark_blocks(folder, "a")
    assert isinstance(plot, Plot)
    assert "runs/mae" in plot.caption.text
    assert isinstance(table, Table)
    ten = (
        "10",
        "1,000",
        "40.0% ± 0.0",
        "55.0% ± 7.1 (lr 0.016, 20 epochs)",
        "75.0% ± 7.1 (lr 0.016, 20 epochs)",
        "+20.0",
    )
    assert table.rows[0] == ten
    assert table.rows[1][0] == "all"
    assert table.rows[1][2] == NOTHING
    assert table.rows[1][-1] == "+5.0"


def test_seeds_that_failed_are_told_of(tmp_path: Path):
    folder = _folder(tmp_path, benchmark=_benchmark(_row(10, [None, None], [0.7, None], [0.4, 0.4])))
    _, table = benchmark_blocks(folder, "a")
    assert isinstance(table, Table)
    assert table.rows[0][4].startswith("70.0%, 1 of 2 failed")
    assert table.rows[0][-1] == NOTHING


def test_a_benchmark_under_way_lists_its_runs(tmp_path: Path):
    folder = _folder(tmp_path, config={"benchmark": "digits", "recipe": "digits", "init": "runs/mae"})
    assert isinstance(sub_run_blocks(folder, "a")[0], Note)
    how = {"recipe": "digits", "init": "none", "labels": None, "seed": 1, "optimizer": {"base_lr": 0.016}}
    _folder(tmp_path / "scratch-all-seed1", config=how)
    (table,) = sub_run_blocks(folder, "a")
    assert isinstance(table, Table)
    expected = ("scratch-all-seed1", "all", "none", "0.016", "1", "running or killed", NOTHING, NOTHING, NOTHING)
    assert table.rows == (expected,)
    with pytest.raises(ValueError, match=r"benchmark\.json is not there"):
        benchmark_blocks(folder, "a")


def test_a_probe(tmp_path: Path):
    knn = {"neighbours": 20, "temperature": 0.07, "train_images": 90, "held_out_images": 50, "top1": 0.5}
    linear = {"method": "logistic regression", "C": 1.0, "sweep": [{"C": 1.0, "top1": 0.9}], "top1": 0.9}
    sizes = {"split": "train", "held_out": "test", "train_images": 400, "held_out_images": 100}
    found = {"model": "runs/mae/encoder", "data": "d", **sizes, "features": "mean of patch tokens", "seed": 0}
    table, everything = probe_blocks(_folder(tmp_path, probe={**found, "knn": knn, "linear": linear}), "a")
    assert isinstance(table, Table)
    cells = dict(zip(table.head, table.rows[0], strict=True))
    assert cells["k-NN, 20 neighbours"].startswith("50.00%\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}7.07%")
    assert cells["linear, logistic regression"].endswith("3.00%")
    assert isinstance(everything, Properties)
    assert ("knn.temperature", "0.07") in everything.rows


def test_a_probe_of_several_k_and_few_images(tmp_path: Path):
    knn = {"neighbours": 20, "top1": 0.5, "sweep": [{"neighbours": 1, "top1": 0.25}, {"neighbours": 20, "top1": 0.5}]}
    rows = [{"shots": 1, "mean": 0.3, "deviation": 0.0123}, {"shots": 2, "mean": 0.4, "deviation": None}]
    sizes = {"split": "train", "held_out": "test", "train_images": 400, "held_out_images": 100}
    found = {"model": "m", "data": "d", **sizes, "features": "f", "linear": {"method": "SGD sweep", "top1": 0.9}}
    probe = {**found, "knn": knn, "few_shot": {"draws": 5, "results": rows}}
    _, few, neighbours, _ = probe_blocks(_folder(tmp_path, probe=probe), "a")
    assert isinstance(few, Table)
    assert few.rows == (("1", "30.00% ± 1.23"), ("2", "40.00%"))
    assert isinstance(neighbours, Table)
    assert neighbours.rows == (("1", "25.00%"), ("20", "50.00%"))
