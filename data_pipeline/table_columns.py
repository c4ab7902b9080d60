"""The columns of a table: which hold images and labels, the names of the classes, the bytes of each image."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.manifest import NO_LABEL

if TYPE_CHECKING:
    import datasets

_LABEL_NAMES = ("label", "cls")  # columns of plain integers are taken for labels under these names only
_UNKNOWN_SIZE = 100_000  # bytes, of images that are not in the table but somewhere else; only shard counts depend on it
_MOST_CLASSES = 1_000_000


def choose_image_column(place: str, features: Mapping[str, Any], asked: str | None) -> str:
    """The column asked for, or the first of images; `place` begins the message of the ValueError if there is none."""
    import datasets

    columns = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    columns += [
        name
        for name, feature in features.items()
        if (_is_bytes(feature) or (isinstance(feature, dict) and _is_bytes(feature.get("bytes"))))
        and (name == asked or "image" in name.lower() or name.lower() == "img")
    ]
    if asked in columns:
        return asked
    if asked is not None or not columns:
        wanted = "no column of images" if asked is None else f"--image-column {asked}: no such column of images"
        raise ValueError(f"{place}: {wanted}; {_describe(features)}")
    return columns[0]


def choose_label_column(place: str, features: Mapping[str, Any], asked: str | None) -> str | None:
    """The column asked for, else the first of class labels, else none. Raises ValueError as above."""
    import datasets

    kinds = {name: getattr(feature, "dtype", None) for name, feature in features.items()}
    usable = [name for name, kind in kinds.items() if kind == "string" or (kind or "").startswith(("int", "uint"))]
    if asked is not None:
        if asked not in usable:
            raise ValueError(f"{place}: --label-column {asked}: no such column of classes; {_describe(features)}")
        return asked
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    classes += [name for name in _LABEL_NAMES if name in usable and kinds[name] != "string"]
    return classes[0] if classes else None


def _describe(features: Mapping[str, Any]) -> str:
    kinds = (
        f"{name} ({type(feature).__name__ if not hasattr(feature, 'dtype') else feature.dtype})"
        if type(feature).__name__ in ("Value", "dict")
        else f"{name} ({type(feature).__name__})"
        for name, feature in features.items()
    )
    return f"the columns are: {', '.join(kinds)}; choose with --image-column and --label-column"


def class_names(tables: "list[datasets.Dataset]", column: str | None) -> tuple[str, ...] | None:
    """Names by class number, from the table's description, from its strings, or the numbers themselves.

    Raises ValueError for numbers too large to be classes.
    """
    pc = _compute()
    if column is None:
        return None
    names = getattr(tables[0].features[column], "names", None)
    if names is not None:
        return tuple(names)
    columns = [table.data.column(column) for table in tables]
    if tables[0].features[column].dtype == "string":
        return tuple(sorted({value for values in columns for value in pc.unique(values).to_pylist()} - {None}))
    largest = max(pc.max(values).as_py() or 0 for values in columns)
    if largest >= _MOST_CLASSES:
        raise ValueError(f"column {column} goes up to {largest}: no class numbers; choose another with --label-column")
    return tuple(str(number) for number in range(largest + 1))


def label_numbers(
    table: "datasets.Dataset", column: str | None, names: tuple[str, ...] | None, split: str
) -> NDArray[np.int64]:
    """The number of each row's class in `names`; NO_LABEL in all where there is no such column or no names."""
    import pyarrow as pa

    pc = _compute()

    if column is None or names is None:
        return np.full(len(table), NO_LABEL, np.int64)
    values = table.data.column(column)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = pc.index_in(values, value_set=pa.array(names, values.type))
    labels = pc.fill_null(pc.cast(values, pa.int64()), NO_LABEL).to_numpy()
    wrong = labels[(labels < NO_LABEL) | (labels >= len(names))]
    if len(wrong):
        raise ValueError(f"split {split}: column {column} holds {wrong[0]}, expected 0 to {len(names) - 1}, or -1")
    missing = np.flatnonzero(labels == NO_LABEL)
    if 0 < len(missing) < len(labels):
        raise ValueError(
            f"split {split}: {len(missing):,} of {len(labels):,} rows have no label in column {column}, the first is "
            f"row {missing[0]}; label all or none of a split, or leave them out with --labels none"
        )
    return labels


def sizes(table: "datasets.Dataset", column: str) -> NDArray[np.int64]:
    """Bytes of the image in each row; only paths are looked at outside the table."""
    import pyarrow as pa

    pc = _compute()

    values = table.data.column(column)
    if not pa.types.is_struct(values.type):
        return pc.fill_null(pc.binary_length(values), 0).to_numpy().astype(np.int64)
    lengths = pc.fill_null(pc.binary_length(pc.struct_field(values, "bytes")), -1).to_numpy().astype(np.int64)
    if (lengths < 0).any() and values.type.get_field_index("path") >= 0:
        paths = pc.struct_field(values, "path")
        for row in np.flatnonzero(lengths < 0):
            path = paths[int(row)].as_py()
            lengths[row] = os.stat(path).st_size if path and os.path.exists(path) else _UNKNOWN_SIZE
    return np.maximum(lengths, 0)


def _is_bytes(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _compute() -> Any:
    import pyarrow.compute

    return pyarrow.compute  # its functions are made when it is imported: unknown to type checkers
