"""The columns of a table: which hold images and labels, what the others come to in JSON, the bytes of each image."""

import datetime
import json
import math
import os
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

_LABEL_NAMES = ("label", "cls")  # columns of plain integers are taken for labels under these names only
_UNKNOWN_SIZE = 100_000  # bytes, of images that are not in the table but somewhere else; only shard counts depend on it
_BINARY = ("binary", "large_binary", "binary_view", "fixed_size_binary")


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
    """The column asked for, else the first of class labels or of lists of them, else none. Raises ValueError as above.

    Only a column that is asked for may hold strings, or lists of anything but class labels.
    """
    if asked is not None:
        if asked not in features or not _is_label(element(features[asked]) or features[asked]):
            raise ValueError(f"{place}: --label-column {asked}: no such column of classes; {_describe(features)}")
        return asked
    labels = [name for name, feature in features.items() if _has_names(feature)]
    labels += [name for name, feature in features.items() if _has_names(element(feature))]
    labels += [name for name in _LABEL_NAMES if name in features and _is_number(features[name])]
    return labels[0] if labels else None


def element(feature: Any) -> Any:
    """Of a column of lists what the lists hold; None for any other."""
    if isinstance(feature, list):  # as older versions of `datasets` write it
        return feature[0]
    return getattr(feature, "feature", None)


def class_names(feature: Any) -> tuple[str, ...] | None:
    """The names by number that a column of class labels, or of lists of them, comes with."""
    names = getattr(element(feature) or feature, "names", None)
    return None if names is None else tuple(names)


def describing_columns(features: Mapping[str, Any], others: Iterable[str | None]) -> tuple[str, ...]:
    """The columns that JSON can express, but for the `others`, which are the image's and the label's."""
    return tuple(name for name, feature in features.items() if name not in others and not _is_media(feature))


def expressed(feature: Any, value: Any) -> Any:
    """A cell in JSON's terms: dates as in ISO 8601, classes by name, null for what is no number, and no bytes."""
    inner = element(feature)
    if type(feature).__name__ == "Json" and isinstance(value, str):
        return expressed(None, json.loads(value))
    if isinstance(value, Mapping):
        # Up to its version 3 `datasets` describes a dict of lists as a list of dicts.
        kinds = feature if isinstance(feature, Mapping) else inner if isinstance(inner, Mapping) else {}
        columns = {key: [kind] if isinstance(inner, Mapping) else kind for key, kind in kinds.items()}
        return {
            str(key): expressed(columns.get(key), cell)
            for key, cell in value.items()
            if not _is_media(columns.get(key))
        }
    if isinstance(value, (list, tuple)):
        return [expressed(inner, cell) for cell in value]
    names = class_names(feature)
    if names is not None and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return _plain(value)


def several_labels(feature: Any, value: list[Any] | None) -> dict[str, Any]:
    """Of a cell of a column of lists: `labels`, and `label_names` where the column has names for its numbers."""
    labels = [label for label in value or () if label is not None]
    names = class_names(feature)
    if names is None:
        return {"labels": labels}
    return {"labels": labels, "label_names": expressed(feature, labels)}


def sizes(values: "pyarrow.Array") -> list[int]:
    """Bytes of the image in each row; only paths are looked at outside the table."""
    import pyarrow as pa

    pc = _compute()
    if not pa.types.is_struct(values.type):
        return pc.fill_null(pc.binary_length(values), 0).to_pylist()
    lengths = pc.binary_length(pc.struct_field(values, "bytes")).to_pylist()
    has_paths = values.type.get_field_index("path") >= 0
    for row in range(len(lengths)) if has_paths and None in lengths else ():
        if lengths[row] is None:
            path = pc.struct_field(values.slice(row, 1), "path")[0].as_py()
            lengths[row] = os.stat(path).st_size if path and os.path.exists(path) else _UNKNOWN_SIZE
    return [length or 0 for length in lengths]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return str(value)
    return value


def _is_media(feature: Any) -> bool:
    """Whether it is bytes, or what `datasets` decodes from bytes: images, audio, video, documents; also lists of it."""
    inner = element(feature)
    if inner is not None:
        return _is_media(inner)
    if isinstance(feature, Mapping):
        return all(_is_media(kind) for kind in feature.values())
    return _is_bytes(feature) or (hasattr(feature, "decode_example") and type(feature).__name__ != "Json")


def _is_bytes(feature: Any) -> bool:
    return str(getattr(feature, "dtype", None)).startswith(_BINARY)


def _is_number(feature: Any) -> bool:
    return str(getattr(feature, "dtype", None)).startswith(("int", "uint"))


def _has_names(feature: Any) -> bool:
    return getattr(feature, "names", None) is not None


def _is_label(feature: Any) -> bool:
    return _is_number(feature) or getattr(feature, "dtype", None) in ("string", "large_string")


def _describe(features: Mapping[str, Any]) -> str:
    kinds = (
        f"{name} ({type(feature).__name__ if not hasattr(feature, 'dtype') else feature.dtype})"
        if type(feature).__name__ in ("Value", "dict")
        else f"{name} ({type(feature).__name__})"
        for name, feature in features.items()
    )
    return f"the columns are: {', '.join(kinds)}; choose with --image-column and --label-column"


def _compute() -> Any:
    import pyarrow.compute

    return pyarrow.compute  # its functions are made when it is imported: unknown to type checkers
