"""Predictions come back from their file as they were; a file that somebody changed is refused."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from data_pipeline.manifest import Manifest
from data_pipeline.rows import Part
from pretrain.prediction_file import PREDICTIONS, Origin, read_predictions, write_predictions
from pretrain.predictions import Predictions, predict

CLASSES = tuple("abcdefghij")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Tars of others: their keys are in lists of names."""
    path = Path(__file__).parents[1] / "data_pipeline/conftest.py"
    spec = importlib.util.spec_from_file_location("unit_datasets", path)
    assert spec is not None
    assert spec.loader is not None
    datasets: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(datasets)
    manifest = datasets.write_dataset(tmp_path_factory.mktemp("data") / "d", [6, 6])
    for first, shard in zip((0, 6), manifest.split("train").shards, strict=True):
        keys = "".join(f"key {number}\n" for number in range(first, first + shard.samples))
        (manifest.folder / shard.names).write_text(keys)
    return manifest


def predictions(samples: list[int]) -> Predictions:
    logits = torch.randn(len(samples), 10, generator=torch.Generator().manual_seed(1))
    return predict(np.array(samples), logits, torch.tensor(samples) % 10)


def write(path: Path, manifest: Manifest, samples: list[int]) -> Predictions:
    written = predictions(samples)
    write_predictions(path, written, Part(manifest, "train"), classes=CLASSES, model_sha256="5" * 64)
    return written


def test_a_file_gives_back_what_was_written(manifest: Manifest, tmp_path: Path):
    written = write(tmp_path / PREDICTIONS, manifest, [0, 3, 7, 11])
    for where in (tmp_path, tmp_path / PREDICTIONS):
        found = read_predictions(str(where), "--compare")
        assert found.name == str(where)
        assert found.origin == Origin("train", manifest.split("train").fingerprint, CLASSES, "5" * 64)
        for name, values in vars(written).items():
            np.testing.assert_array_equal(getattr(found.predictions, name), values)
    assert [path.name for path in tmp_path.iterdir()] == [PREDICTIONS]


def test_anything_that_reads_parquet_reads_it(manifest: Manifest, tmp_path: Path):
    written = write(tmp_path / "p.parquet", manifest, [3, 7])
    table = parquet.read_table(tmp_path / "p.parquet")
    assert table.column("key").to_pylist() == ["key 3", "key 7"]
    assert table.column("label").to_pylist() == [3, 7]
    assert table.column("right").to_pylist() == written.right.tolist()
    assert table.column("best").to_pylist() == written.best.tolist()
    assert json.loads(table.schema.metadata[b"sherd"])["classes"] == list(CLASSES)


def test_the_same_predictions_are_the_same_bytes(manifest: Manifest, tmp_path: Path):
    write(tmp_path / "a.parquet", manifest, [0, 3])
    write(tmp_path / "b.parquet", manifest, [0, 3])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "expected predictions.parquet or a folder that holds it, found no such file or folder"),
        (lambda path: path.mkdir(), "found a folder without predictions.parquet; write it with: python finetune/val"),
        (lambda path: path.write_bytes(b"PAR1 and no more"), "not a readable parquet file ("),
        (
            lambda path: parquet.write_table(pa.table({"sample": [1]}), path),
            "a parquet file of something else, expected one that finetune/validate.py wrote",
        ),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, make: Callable[[Path], Any], message: str):
    make(tmp_path / "x")
    with pytest.raises(ValueError, match=re.escape(f"--compare {tmp_path / 'x'}: ") + ".*" + re.escape(message)):
        read_predictions(str(tmp_path / "x"), "--compare")


def replaced(name: str, values: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.schema.get_field_index(name), name, pa.array(values))


def of_version_9(table: pa.Table) -> pa.Table:
    about = json.loads(table.schema.metadata[b"sherd"]) | {"version": 9}
    return table.replace_schema_metadata({b"sherd": json.dumps(about).encode()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_version_9, "version 9, expected 1; evaluate again"),
        (lambda table: table.drop_columns(["nll"]), "expected the column nll of double, got none"),
        (replaced("label", ["3", "7"]), "expected the column label of int64, got string"),
        (replaced("sample", [7, 3]), "expected sample: increasing, which some row is not"),
        (replaced("label", [3, 10]), "expected label: 0 to 9, which some row is not"),
        (replaced("right", [True, True]), "expected right: whether prediction is label, which"),
        (replaced("label_rank", [1, 1]), "expected label_rank: 1 where right, which"),
        (replaced("prediction", [0, 0]), "expected prediction: the first of best, which"),
        (replaced("nll", [0.5, None]), "it has no rows, or rows with gaps; it was changed since: evaluate again"),
        (replaced("best", [[1, 2], [3]]), "it has no rows, or rows with gaps"),
        (lambda table: table.slice(0, 0), "it has no rows, or rows with gaps"),
    ],
)
def test_a_changed_file_is_refused(
    manifest: Manifest, tmp_path: Path, change: Callable[[pa.Table], pa.Table], message: str
):
    path = tmp_path / PREDICTIONS
    assert not write(path, manifest, [3, 7]).right.all()
    parquet.write_table(change(parquet.read_table(path)), path)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_predictions(str(path), "--compare")
