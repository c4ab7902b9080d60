"""What comparisons conclude, on which images, and what they refuse to compare."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.paired_comparison import compare
from finetune.validate_config import ValidateConfig
from launch.console import Console
from pretrain.prediction_file import Origin, PredictionFile
from pretrain.predictions import predict

ORIGIN = Origin("test", "f" * 64, ("cat", "dog"), "5" * 64)


def predicted(name: str, right: list[bool], samples: list[int] | None = None, first: int = 0) -> PredictionFile:
    """Images of alternating labels, of which some are right; `first` is the label of the first."""
    labels = (torch.arange(len(right)) + first) % 2
    taken = torch.where(torch.tensor(right), labels, 1 - labels)
    numbers = np.arange(len(right)) if samples is None else np.array(samples)
    return PredictionFile(name, ORIGIN, predict(numbers, torch.nn.functional.one_hot(taken, 2).float(), labels))


def compared(
    monkeypatch: pytest.MonkeyPatch, files: list[PredictionFile], out: Path | None = None
) -> tuple[dict[str, Any], str]:
    by_name = {file.name: file for file in files}
    monkeypatch.setattr("finetune.paired_comparison.read_predictions", lambda where, option: by_name[where])
    said = io.StringIO()
    config = ValidateConfig(compare=tuple(by_name), out=None if out is None else str(out), draws=400)
    return compare(config, Console(stream=said)), said.getvalue()


def shares(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    counts = (both, first, second, neither)
    return (
        np.repeat([True, True, False, False], counts).tolist(),
        np.repeat([True, False, True, False], counts).tolist(),
    )


def test_a_clear_difference_is_said_with_its_interval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    a, b = shares(60, 10, 50, 80)
    result, said = compared(monkeypatch, [predicted("A", a), predicted("B", b)], tmp_path / "out")
    (pair,) = result["pairs"]
    assert (pair["only_first_right"], pair["only_second_right"]) == (10, 50)
    assert pair["difference"] == pytest.approx(0.2)
    assert pair["test"] == "McNemar, chi-squared with continuity correction"
    assert pair["statistic"] == pytest.approx(39**2 / 60)
    assert pair["p"] == pair["p_holm"] < 1e-5
    low, high = pair["interval"]
    assert 0.1 < low < 0.2 < high < 0.3
    assert pair["conclusion"] == (
        f"On images like these the weights of B are right more often than those of A, by {100 * low:.2f} to "
        f"{100 * high:.2f} points (95 % interval); what other training runs would give, this does not tell."
    )
    assert pair["conclusion"] in said
    assert "200 images of [test], each predicted by all\n" in said
    assert "\nA  35.00%\nB  55.00%\n" in said
    assert "B minus A            +20.00" in said
    assert json.loads((tmp_path / "out/comparison.json").read_text()) == result
    assert result["bootstrap"] == {
        "method": "percentile bootstrap over images",
        "level": 0.95,
        "draws": 400,
        "seed": 0,
    }


def test_the_better_one_is_named_wherever_it_stands(monkeypatch: pytest.MonkeyPatch):
    a, b = shares(60, 50, 10, 80)
    result, _ = compared(monkeypatch, [predicted("A", a), predicted("B", b)])
    assert "the weights of A are right more often than those of B, by " in result["pairs"][0]["conclusion"]


def test_what_these_images_do_not_tell_is_not_concluded(monkeypatch: pytest.MonkeyPatch):
    a, b = shares(60, 9, 12, 19)
    result, _ = compared(monkeypatch, [predicted("A", a), predicted("B", b)])
    (pair,) = result["pairs"]
    assert pair["test"] == "McNemar, exact binomial"
    assert pair["p"] > 0.5
    low, high = (100 * end for end in pair["interval"])
    assert low < 0 < high
    assert pair["conclusion"] == (
        "These images do not tell which of A and B is right more often: the difference may lie anywhere between "
        f"{low:+.2f} and {high:+.2f} points."
    )


def test_equals_and_what_is_close(monkeypatch: pytest.MonkeyPatch):
    a, b = shares(60, 0, 5, 35)  # the exact p of 5 to 0 is .0625, and few draws miss all of the 5
    result, _ = compared(monkeypatch, [predicted("A", a), predicted("B", b)])
    assert result["pairs"][0]["conclusion"] == (
        "Between A and B it is close: the interval of the difference leaves out 0, but p is 0.062; more images would "
        "tell."
    )
    result, _ = compared(monkeypatch, [predicted("A", a), predicted("B", a)])
    assert result["pairs"][0]["conclusion"] == "A and B are right of the very same images."
    assert result["pairs"][0]["p"] == 1


def test_several_are_compared_in_pairs_and_corrected(monkeypatch: pytest.MonkeyPatch):
    a, b = shares(60, 10, 50, 80)
    files = [predicted("A", a), predicted("B", b), predicted("C", b[:-12] + [not one for one in b[-12:]])]
    result, said = compared(monkeypatch, files)
    assert [(pair["first"], pair["second"]) for pair in result["pairs"]] == [("A", "B"), ("A", "C"), ("B", "C")]
    p = [pair["p"] for pair in result["pairs"]]
    order = sorted(range(3), key=p.__getitem__)
    assert result["pairs"][order[0]]["p_holm"] == pytest.approx(3 * p[order[0]])
    assert result["pairs"][order[1]]["p_holm"] == pytest.approx(max(3 * p[order[0]], 2 * p[order[1]]))
    assert "McNemar's p (Holm)" in said


def test_only_common_images_are_compared_and_that_is_said(monkeypatch: pytest.MonkeyPatch):
    files = [predicted("A", [True] * 4, [0, 1, 2, 3]), predicted("B", [False, True, True], [1, 2, 7], first=1)]
    result, said = compared(monkeypatch, files)
    assert result["images"] == 2
    assert [model["top1"] for model in result["models"]] == [1, 0.5]
    assert "compared on the 2 images that all have: A has 4, B has 3\n" in said


def test_models_may_number_the_same_classes_in_other_ways(monkeypatch: pytest.MonkeyPatch):
    result, _ = compared(monkeypatch, [predicted("A", [True, False]), predicted("B", [True, True], first=1)])
    assert [model["top1"] for model in result["models"]] == [0.5, 1]


def test_predictions_of_other_images_are_refused(monkeypatch: pytest.MonkeyPatch):
    first = predicted("A", [True, False])
    other = replace(predicted("B", [True, False]), origin=replace(ORIGIN, fingerprint="e" * 64, split="train"))
    message = (
        "--compare: expected predictions of the same images, but by the splits' fingerprints A is of [test] "
        "ffffffffffff and B is of [train] eeeeeeeeeeee; evaluate both with finetune/validate.py"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        compared(monkeypatch, [first, other])
    apart = predicted("B", [True, False], [5, 6])
    with pytest.raises(ValueError, match=re.escape("--compare: no image of [test] is in all of A, B; evaluate them")):
        compared(monkeypatch, [first, apart])
    mislabelled = predicted("B", [True, True, True], [0, 1, 3])
    with pytest.raises(ValueError, match="--compare: A and B hold other labels for the same images"):
        compared(monkeypatch, [predicted("A", [True] * 4), mislabelled])


def test_a_folder_of_something_else_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"found one with notes\.txt; give another --out"):
        compared(monkeypatch, [predicted("A", [True]), predicted("B", [True])], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
