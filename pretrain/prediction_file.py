"""Predictions as a parquet file: one row an image, and of which images and model they are."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from data_pipeline.rows import Part
from data_pipeline.sample_facts import look_up
from launch.atomic import Guard, write_atomically
from pretrain.label_set_file import FORMAT as LABEL_SETS
from pretrain.predictions import MOST, Predictions

PREDICTIONS = "predictions.parquet"
"""The file's name in the folders of validate.py and classify.py."""

_FORMAT, _VERSION = "sherd-predictions", 1
_BESIDE = b"sherd"  # where the schema's metadata hold all but the rows
_COLUMNS = {
    "sample": pa.int64(),
    "key": pa.string(),
    "label": pa.int64(),
    "prediction": pa.int64(),
    "right": pa.bool_(),
    "confidence": pa.float64(),
    "label_probability": pa.float64(),
    "nll": pa.float64(),
    "label_rank": pa.int64(),
    "best": pa.list_(pa.int64()),
    "brier": pa.float64(),
}


@dataclass(frozen=True)
class Origin:
    """Which images were predicted, with which classes and by which model.

    split, fingerprint: of the dataset. classes: the model's, by number. model_sha256: of its file of weights.
    """

    split: str
    fingerprint: str
    classes: tuple[str, ...]
    model_sha256: str


@dataclass(frozen=True)
class PredictionFile:
    """What a file of predictions holds; `name` is it or its folder as the user gave it."""

    name: str
    origin: Origin
    predictions: Predictions


def write_predictions(
    path: Path,
    predictions: Predictions,
    part: Part,
    *,
    classes: tuple[str, ...],
    model_sha256: str,
    guard: Guard | None = None,
) -> None:
    """Write the predictions of images of a split, with their keys, which the indexes know: no image is read.

    Raises:
        DatasetError: an index is absent or altered.
        OSError: a full disk.
    """
    keys = [fact.key for fact in look_up(part.manifest, part.split, predictions.samples)]
    columns = {
        "sample": predictions.samples,
        "key": keys,
        "label": predictions.labels,
        "prediction": predictions.predicted,
        "right": predictions.right,
        "confidence": predictions.confidence,
        "label_probability": predictions.probability,
        "nll": predictions.nll,
        "label_rank": predictions.ranks,
        "best": list(predictions.best),
        "brier": predictions.brier,
    }
    about = {
        "format": _FORMAT,
        "version": _VERSION,
        "split": part.split,
        "fingerprint": part.manifest.split(part.split).fingerprint,
        "model_sha256": model_sha256,
        "classes": list(classes),
    }
    schema = pa.schema(list(_COLUMNS.items()), metadata={_BESIDE: json.dumps(about).encode()})
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns, schema=schema), buffer)
    write_atomically(path, buffer.getvalue(), guard)


def read_predictions(where: str, option: str) -> PredictionFile:
    """The predictions in a file, or in the folder of a run or a validation.

    Raises:
        ValueError: none there, or not what `write_predictions` writes; the message begins with `option`.
    """
    path = Path(where) / PREDICTIONS if Path(where).is_dir() else Path(where)
    said = f"{option} {where}"
    if not path.is_file():
        folder = f"a folder without {PREDICTIONS}" if Path(where).is_dir() else "no such file or folder"
        raise ValueError(
            f"{said}: expected {PREDICTIONS} or a folder that holds it, found {folder}; write it with: "
            f"python finetune/validate.py --model MODEL --data DATASET --out FOLDER"
        )
    try:
        # Not read_table, which takes parts of a path such as fold=1 for further columns.
        table = parquet.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{said}: not a readable parquet file ({' '.join(str(error).split())})") from error
    about = _described(table.schema, said)
    origin = Origin(about["split"], about["fingerprint"], tuple(about["classes"]), about["model_sha256"])
    return PredictionFile(where, origin, _checked(table, len(origin.classes), said))


def _described(schema: pa.Schema, said: str) -> dict[str, Any]:
    about = json.loads((schema.metadata or {}).get(_BESIDE, b"{}"))
    if about.get("format") == LABEL_SETS:
        raise ValueError(
            f"{said}: predictions of several labels an image; expected those of one, which can be compared"
        )
    if about.get("format") != _FORMAT:
        raise ValueError(f"{said}: a parquet file of something else, expected one that finetune/validate.py wrote")
    if about["version"] != _VERSION:
        raise ValueError(
            f"{said}: version {about['version']}, expected {_VERSION}; evaluate again, or use the sherd that wrote it"
        )
    types = dict(zip(schema.names, schema.types, strict=True))
    missing = [name for name, kind in _COLUMNS.items() if name not in types or not _alike(types[name], kind)]
    if missing:
        raise ValueError(
            f"{said}: expected the column {missing[0]} of {_COLUMNS[missing[0]]}, got {types.get(missing[0], 'none')}; "
            "it was changed since: evaluate again"
        )
    return about


def _alike(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether they are the same but for the name of a list's elements, which differs between writers."""
    if pa.types.is_list(expected):
        return pa.types.is_list(found) and found.value_type == expected.value_type
    return found == expected


def _checked(table: pa.Table, classes: int, said: str) -> Predictions:
    values = {name: table.column(name) for name in _COLUMNS}
    width = min(MOST, classes)
    best = values["best"].combine_chunks()
    is_whole = table.num_rows > 0 and not any(column.null_count for column in values.values())
    if not is_whole or set(np.diff(best.offsets.to_numpy()).tolist()) != {width}:
        raise ValueError(f"{said}: it has no rows, or rows with gaps; it was changed since: evaluate again")
    found = Predictions(
        samples=values["sample"].to_numpy(),
        labels=values["label"].to_numpy(),
        best=best.flatten().to_numpy().reshape(-1, width),
        ranks=values["label_rank"].to_numpy(),
        confidence=values["confidence"].to_numpy(),
        probability=values["label_probability"].to_numpy(),
        nll=values["nll"].to_numpy(),
        brier=values["brier"].to_numpy(),
    )
    right = values["right"].to_numpy()
    consistent = {
        "sample: increasing": bool((np.diff(found.samples) > 0).all()),
        f"label: 0 to {classes - 1}": bool(((found.labels >= 0) & (found.labels < classes)).all()),
        "prediction: the first of best": bool((values["prediction"].to_numpy() == found.predicted).all()),
        "right: whether prediction is label": bool((right == (found.predicted == found.labels)).all()),
        "label_rank: 1 where right": bool((right == found.right).all()),
    }
    for rule, holds in consistent.items():
        if not holds:
            raise ValueError(f"{said}: expected {rule}, which some row is not; it was changed since: evaluate again")
    return found
