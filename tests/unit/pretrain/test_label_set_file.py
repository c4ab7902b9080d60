"""Predictions of several labels an image: what the file says of each."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from pyarrow import parquet

from data_pipeline.rows import Part
from pretrain.label_set_file import write_label_sets
from pretrain.multi_label_accuracy import measure_multi_label
from pretrain.prediction_file import read_predictions


def test_a_row_says_what_an_image_has_and_was_taken_for(datasets: ModuleType, tmp_path: Path):
    part = Part(datasets.write_dataset(tmp_path / "data", [4]), "train")
    (part.manifest.folder / part.manifest.split("train").shards[0].names).write_text("a\nb\nc\nd\n")
    logits = torch.tensor([[2.0, -1.0, 0.5], [-3.0, -1.0, -0.5]])
    targets = torch.tensor([[True, False, True], [False, True, False]])
    accuracy = measure_multi_label(logits, targets, samples=np.array([1, 3]))
    path = tmp_path / "predictions.parquet"
    write_label_sets(path, accuracy, part, classes=("a", "b", "c"), model_sha256="ab" * 32)
    table = parquet.read_table(path)
    assert table.column("sample").to_pylist() == [1, 3]
    assert table.column("key").to_pylist() == ["b", "d"]
    assert table.column("labels").to_pylist() == [[0, 2], [1]]
    assert table.column("predicted").to_pylist() == [[0, 2], []]
    assert table.column("right").to_pylist() == [True, False]
    assert table.column("probabilities").to_pylist() == [pytest.approx(row) for row in logits.sigmoid().tolist()]
    about = json.loads(table.schema.metadata[b"sherd"])
    assert (about["split"], about["classes"], about["model_sha256"]) == ("train", ["a", "b", "c"], "ab" * 32)
    assert about["fingerprint"] == part.manifest.split("train").fingerprint
    with pytest.raises(ValueError, match=r"--compare .*: predictions of several labels an image; expected those of on"):
        read_predictions(str(path), "--compare")
