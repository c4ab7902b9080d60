"""Where images come from. A source lists its images, split by split, and reads one of them.

A source is a small frozen dataclass: worker processes are given it as it is, and open for themselves what it names.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config import DIGITS

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_HUB_NAME_LENGTH = 96


class Entry(NamedTuple):
    """One image of a split: its place in the listing, its name in the source, its class's number (-1 for none)."""

    number: int
    name: str
    label: int


@dataclass(frozen=True)
class Listing:
    """The images of one split, in an order that depends on nothing but the source; `sizes` are bytes."""

    names: Sequence[str]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    def entry(self, number: int) -> Entry:
        """The image at that place."""
        return Entry(number, self.names[number], int(self.labels[number]))


@dataclass(frozen=True)
class Contents:
    """What a source holds. `notes` are sentences for the user; `versions` those of the libraries that read it."""

    splits: dict[str, Listing]
    classes: tuple[str, ...] | None
    description: str
    notes: tuple[str, ...]
    versions: dict[str, str]


class Source(Protocol):
    """A place of images."""

    def list_images(self) -> Contents:
        """All images there are.

        Raises:
            ValueError: there are none, or they cannot be told apart from other things; says what to do.
            OSError: a file or folder cannot be read.
        """
        ...

    def read(self, split: str, entry: Entry, limit: int | None = None) -> bytes:
        """The bytes of an image as they are stored, or no more than the first `limit` of them.

        Raises:
            OSError: a file that cannot be read.
        """
        ...


def open_source(
    source: str, labels: str = "auto", image_column: str | None = None, label_column: str | None = None
) -> Source:
    """The source that a string names: `digits`, a path that exists, or the name of a dataset on the Hub.

    Args:
        source: as typed by the user; names in the source do not depend on how its path is spelled.
        labels: "auto", or "none" to leave labels alone.
        image_column: of a table, None for the first that holds images.
        label_column: of a table, None for the first that holds class labels.

    Raises:
        ValueError: no such source, an empty one, or an option that does not fit its kind.
    """
    if source == DIGITS:
        from data_pipeline.digits import DigitsSource

        kind, opened = "the digits", DigitsSource(labels != "none")
    elif os.path.exists(source) and _is_table(Path(source)):
        from data_pipeline.table_source import load_local_table

        return load_local_table(source, labels, image_column, label_column)
    elif os.path.exists(source):
        from data_pipeline.image_folder import FolderSource

        kind, opened = "a folder of images", FolderSource(source, labels != "none")
    elif _HUB_NAME.fullmatch(source) and len(source) <= _HUB_NAME_LENGTH:
        from data_pipeline.table_source import load_hub_table

        return load_hub_table(source, labels, image_column, label_column)
    else:
        raise ValueError(
            f"--source {source}: no such file or folder (seen from {os.getcwd()}); expected {DIGITS}, a folder, "
            "or the name of a dataset on the Hub, such as user/name"
        )
    for option, value in (("--image-column", image_column), ("--label-column", label_column)):
        if value is not None:
            raise ValueError(f"{option} {value}: --source {source} is {kind}, which has no columns: drop {option}")
    return opened


def _is_table(path: Path) -> bool:
    from data_pipeline.table_source import holds_table

    table = holds_table(path)
    if path.is_file() and not table:
        raise ValueError(f"--source {path}: a file, expected a folder, or a .parquet or .arrow file")
    return table
