"""Predictions of several labels an image as a parquet file: a row an image, and of which images and model they are."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from data_pipeline.rows import Part
from data_pipeline.sample_facts import look_up
from launch.atomic import Guard, write_atomically
from pretrain.multi_label_accuracy import MultiLabelAccuracy

FORMAT = "sherd-label-set-predictions"
"""Under `format` in the file's metadata, of the key `sherd`."""

_COLUMNS = {
    "sample": pa.int64(),
    "key": pa.string(),
    "labels": pa.list_(pa.int64()),
    "predicted": pa.list_(pa.int64()),
    "right": pa.bool_(),
    "probabilities": pa.list_(pa.float32()),
}


def write_label_sets(
    path: Path,
    accuracy: MultiLabelAccuracy,
    part: Part,
    *,
    classes: tuple[str, ...],
    model_sha256: str,
    guard: Guard | None = None,
) -> None:
    """Write, of each image, the labels that it has and those of a probability above .5, by number, whether they are the
    same, and the probability of every label.

    Raises:
        DatasetError: an index is absent or altered.
        OSError: a full disk.
    """
    truth, said = accuracy.targets.numpy(), accuracy.logits.numpy() > 0
    columns = {
        "sample": accuracy.samples,
        "key": [fact.key for fact in look_up(part.manifest, part.split, accuracy.samples)],
        "labels": [np.flatnonzero(row) for row in truth],
        "predicted": [np.flatnonzero(row) for row in said],
        "right": (truth == said).all(axis=1),
        "probabilities": list(accuracy.logits.sigmoid().numpy()),
    }
    about = {
        "format": FORMAT,
        "version": 1,
        "split": part.split,
        "fingerprint": part.manifest.split(part.split).fingerprint,
        "model_sha256": model_sha256,
        "classes": list(classes),
    }
    schema = pa.schema(list(_COLUMNS.items()), metadata={b"sherd": json.dumps(about).encode()})
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns, schema=schema), buffer)
    write_atomically(path, buffer.getvalue(), guard)
