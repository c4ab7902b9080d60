"""Results come onto a card with how sure they are, and only those of the very model that is published."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.card_results import read_results
from finetune.card_scores import share_score, wilson_interval
from finetune.finished_run import FinishedRun
from launch.file_hash import file_sha256
from pretrain.config import EncoderConfig
from pretrain.mae_config import MaeConfig

ENCODER = EncoderConfig("vit_tiny_patch16_224", (8, 8), (2, 2), width=24, depth=2, heads=2)
MAE = MaeConfig(encoder=ENCODER, epochs=100.0, batch_size=8, data="pets", out="out")
PROBE = {
    "model": "/home/secret/encoder",
    "data": "/home/secret/my_pets",
    "split": "train",
    "held_out": "test",
    "train_images": 1000,
    "held_out_images": 400,
    "features": "class_token",
    "knn": {"neighbours": 20, "top1": 0.5, "held_out_images": 100},
    "linear": {"method": "LARS", "top1": 0.75},
    "few_shot": {"draws": 3, "results": [{"shots": 5, "mean": 0.25, "deviation": 0.015}]},
    "seed": 4,
}
TRAINED = {"base_lr": 0.1, "epochs": 2.0}
BENCHMARK = {
    "data": "/home/secret/pets",
    "rows": [
        {
            "labels": 10,
            "pretrained": {**TRAINED, "top1": [0.5, None, 0.7]},
            "scratch": {**TRAINED, "top1": [0.25, 0.35, 0.45]},
        },
        {"labels": None, "pretrained": {**TRAINED, "top1": [0.9]}, "scratch": {**TRAINED, "top1": [None]}},
    ],
}
ENDS = {"level": 0.95, "draws": 1000, "seed": 7, "top1": [0.71239, 0.8], "mean_class_accuracy": [0.7, 0.8]}
VALIDATION = {
    "format": "sherd-validation",
    "data": "hf://datasets/me/pets",
    "split": "test",
    "precision": "fp32",
    "images": 200,
    "undecodable": 3,
    "top1": 0.75,
    "top5": 1.0,
    "mean_class_accuracy": 0.74,
    "intervals": ENDS,
}


@pytest.fixture
def run(tmp_path: Path, finish: Callable[..., FinishedRun]) -> FinishedRun:
    """Whose model, in a folder that others can name, was there from the second hour on."""
    run = finish(tmp_path / "run", MAE)
    model = model_in(tmp_path / "model", b"the weights")
    run.folder.exit.write_text(json.dumps({"status": "done", "ended": "2026-01-01T02:00:00+00:00"}))
    return dataclasses.replace(run, exported=dataclasses.replace(run.exported, path=model))


def model_in(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    prepared = {"input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "pretrained_cfg": prepared}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def results_in(folder: Path, file: str, content: dict[str, Any], ended: str = "03", **config: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / file).write_text(json.dumps(content))
    (folder / "config.json").write_text(json.dumps({"recipe": "r", **config}))
    (folder / "exit.json").write_text(json.dumps({"status": "done", "ended": f"2026-01-01T{ended}:00:00+00:00"}))
    return str(folder)


def test_wilsons_interval():
    # Of the examples of Newcombe 1998 (Statistics in Medicine 17, 857-872, table I), method 3.
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0 / 20, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(1.0, 29)[1] == 1.0


def test_a_score_is_rounded_and_says_how_sure_it_is():
    score = share_score("Top-1", 1 / 3, 300, 5)
    assert (score.value, score.with_interval) == (0.333333, "33.33% (95 % between 28.24% and 38.85%)")
    assert score.details.keys() == {"confidence_interval", "level", "method", "images", "seed"}


def test_a_probe(run: FinishedRun, tmp_path: Path):
    where = results_in(tmp_path / "probe", "probe.json", PROBE, init=str(tmp_path / "model"))
    (found,) = read_results((where,), run)
    assert found.text == (
        r"Frozen features (class\_token) by `finetune/probe.py`: learnt from 1,000 images of my\_pets, split train, "
        "measured on 400 of split test, seed 4:"
    )
    assert found.rows == (
        ("k-NN top-1, 20 neighbours", "50.00% (95 % between 40.38% and 59.62%)"),
        ("Linear top-1, LARS", "75.00% (95 % between 70.53% and 78.99%)"),
        ("Top-1, logistic regression on 5 images a class", "25.00% ± 1.50 over 3 draws"),
    )
    assert (found.data, found.split, len(found.scores)) == ("my_pets", "test", 3)


def test_a_benchmark(run: FinishedRun, tmp_path: Path):
    where = results_in(tmp_path / "bench", "benchmark.json", {**BENCHMARK, "init": str(tmp_path / "model")})
    (found,) = read_results((where,), run)
    assert found.rows == (
        ("Top-1, 10 labels a class, fine-tuned from this model", "60.00% ± 14.14, seeds 0, 2; 1 more failed"),
        ("Top-1, 10 labels a class, from scratch", "35.00% ± 10.00, seeds 0, 1, 2"),
        ("Top-1, all labels, fine-tuned from this model", "90.00%, seed 0"),
    )
    first = found.scores[0]
    assert (first.name, first.value) == ("Top-1, fine-tuned, 10 labels a class", 0.6)
    assert first.details == {"seeds": [0, 2], "values": [0.5, 0.7], "standard_deviation": 0.141421}


def test_a_validation(run: FinishedRun, tmp_path: Path):
    sha256 = file_sha256(tmp_path / "model" / "model.safetensors")
    where = results_in(tmp_path / "val", "evaluation.json", {**VALIDATION, "model_sha256": sha256})
    (found,) = read_results((where,), run)
    assert found.text == (
        "This model by `finetune/validate.py` in fp32, on 200 images of me/pets, split test, each once; "
        "3 more do not decode:"
    )
    assert found.rows == (
        ("Top-1", "75.00% (95 % between 71.24% and 80.00%)"),
        ("Mean over classes", "74.00% (95 % between 70.00% and 80.00%)"),
    )
    assert found.scores[0].details == {
        "confidence_interval": [0.7124, 0.8],
        "level": 0.95,
        "method": "bootstrap",
        "images": 200,
        "seed": 7,
    }
    other = results_in(tmp_path / "val", "evaluation.json", {**VALIDATION, "model_sha256": "0" * 64})
    with pytest.raises(
        ValueError, match=r"--results .*val: measured another model than .*run: weights with the SHA-256 0"
    ):
        read_results((other,), run)


def test_a_copy_of_the_model_is_the_model(run: FinishedRun, tmp_path: Path):
    copy, other = model_in(tmp_path / "copy", b"the weights"), model_in(tmp_path / "other", b"other weights")
    assert read_results((results_in(tmp_path / "probe", "probe.json", PROBE, init=str(copy)),), run)
    with pytest.raises(
        ValueError, match=r"--results .*probe: measured another model than .*other.*leave this folder out"
    ):
        read_results((results_in(tmp_path / "probe", "probe.json", PROBE, init=str(other)),), run)


def test_what_was_measured_before_the_run_ended_is_refused(run: FinishedRun, tmp_path: Path):
    where = results_in(tmp_path / "probe", "probe.json", PROBE, init=str(tmp_path / "model"), ended="01")
    with pytest.raises(
        ValueError, match=r"before the run there ended, when its model may have been another; measure aga"
    ):
        read_results((where,), run)


def test_what_is_gone_is_refused_unless_its_hash_was_written_down(run: FinishedRun, tmp_path: Path):
    where = results_in(tmp_path / "probe", "probe.json", PROBE, init="/gone")
    with pytest.raises(ValueError, match=r"measured /gone, which is not there any more, so whether that is the model"):
        read_results((where,), run)
    known = {**PROBE, "model_sha256": file_sha256(tmp_path / "model" / "model.safetensors")}
    assert read_results((results_in(tmp_path / "probe", "probe.json", known, init="/gone"),), run)
    with pytest.raises(ValueError, match=r"measured another model"):
        read_results((results_in(tmp_path / "probe", "probe.json", {**PROBE, "model_sha256": "0" * 64}),), run)


def test_other_folders_are_refused(run: FinishedRun, tmp_path: Path):
    with pytest.raises(ValueError, match=r"--results .*model: expected a folder that finetune/probe\.py"):
        read_results((str(tmp_path / "model"),), run)
    damaged = results_in(tmp_path / "probe", "probe.json", {"data": "x"}, init=str(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"--results .*probe: .*; measure again, or leave this folder out"):
        read_results((damaged,), run)
