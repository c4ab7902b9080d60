"""What kind of source a string names: the one place that knows all of them."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from data_pipeline.config import DIGITS, ShardConfig
from data_pipeline.manifest import FORMAT, MANIFEST
from data_pipeline.sources import Source

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_HUB_NAME_LENGTH = 96
_TAR_PATTERN = re.compile(r".*\{.+\}.*\.tar")
_LISTS = (".csv", ".tsv", ".parquet")
_TEXT_LISTS = (".csv", ".tsv")
_ARRAYS = ".npy"
_MOST_ODD_FILES = 10_000
# Options that not every kind of source has; what they are about.
_OPTIONS = {
    "image_column": "which has no columns",
    "label_column": "which has no columns",
    "config": "which has no configurations",
    "revision": "which has no revisions",
    "streaming": "which is not read as a stream",
    "index_only": "not WebDataset tars",
}
_COLUMNS = ("image_column", "label_column")


def open_source(config: ShardConfig, spool: Path) -> Source:
    """The source that `config.source` names: `digits`, a path that exists, a URL, or a dataset's name on the Hub.

    What is listed does not depend on how the path is spelled. A stream's images are kept in the folder `spool`.

    Raises:
        ValueError: no such source, an empty one, or an option that does not fit its kind.
        OSError: a file or folder that cannot be read.
    """
    if config.source == DIGITS:
        from data_pipeline.digits import DigitsSource

        _refuse_others(config, "the digits")
        return DigitsSource()
    if "://" in config.source:
        return _open_remote(config)
    path = Path(config.source)
    if os.path.isfile(path):  # False, and no error, for a name that is too long
        return _open_file(config, path, spool)
    if os.path.isdir(path):
        return _open_folder(config, path, spool)
    if _TAR_PATTERN.fullmatch(config.source):
        return _open_tars(config)
    if _HUB_NAME.fullmatch(config.source) and len(config.source) <= _HUB_NAME_LENGTH:
        from data_pipeline.table_source import load_hub_table

        _refuse_others(config, "a dataset of the Hub", *_COLUMNS, "config", "revision", "streaming")
        return _open_streamed(config, spool) if config.streaming else load_hub_table(config)
    raise ValueError(
        f"--source {config.source}: no such file or folder (seen from {os.getcwd()}); expected {DIGITS}, a folder, a "
        "URL, or the name of a dataset on the Hub, such as user/name"
    )


def _open_remote(config: ShardConfig) -> Source:
    return _open_list(config) if urlsplit(config.source).path.lower().endswith(_LISTS) else _open_tars(config)


def _open_file(config: ShardConfig, path: Path, spool: Path) -> Source:
    from data_pipeline.table_source import TABLES, load_local_table

    extension = path.suffix.lower()
    if extension == ".tar":
        return _open_tars(config)
    if extension in _LISTS and _is_list(config, path):
        return _open_list(config)
    if extension in TABLES:
        _refuse_others(config, "a table", *_COLUMNS, "streaming")
        return _open_streamed(config, spool) if config.streaming else load_local_table(config)
    raise ValueError(
        f"--source {path}: a file, expected a folder, or a .parquet or .arrow file, a list of paths or URLs (.csv, "
        ".tsv, .parquet), or a .tar"
    )


def _open_folder(config: ShardConfig, path: Path, spool: Path) -> Source:
    from data_pipeline.table_source import is_saved, load_local_table

    if is_saved(path):
        _refuse_others(config, "a folder that `save_to_disk` wrote", *_COLUMNS)
        return load_local_table(config)
    kind = _kind_of_folder(path)
    if kind == "tars":
        return _open_tars(config)
    if kind == "tables":
        _refuse_others(config, "a folder that `datasets` reads", *_COLUMNS, "config", "streaming")
        return _open_streamed(config, spool) if config.streaming else load_local_table(config)
    from data_pipeline.image_folder import FolderSource

    _refuse_others(config, "a folder of images")
    return FolderSource(config.source, labelled=config.labels != "none", annotated=config.metadata != "none")


def _open_tars(config: ShardConfig) -> Source:
    from data_pipeline.tar_source import open_tars

    _refuse_others(config, "WebDataset tars", *_COLUMNS, "index_only")  # extensions of members take columns' place
    return open_tars(config)


def _is_list(config: ShardConfig, path: Path) -> bool:
    from data_pipeline.url_list import is_url_list

    return path.suffix.lower() in _TEXT_LISTS or is_url_list(path, config.image_column)


def _open_list(config: ShardConfig) -> Source:
    from data_pipeline.url_list import load_url_list

    _refuse_others(config, "a list of paths or URLs", *_COLUMNS)
    return load_url_list(config)


def _open_streamed(config: ShardConfig, spool: Path) -> Source:
    from data_pipeline.streamed_dataset import open_streamed

    return open_streamed(config, spool)


def _refuse_others(config: ShardConfig, kind: str, *allowed: str) -> None:
    """Raises ValueError for an option that was given, but means nothing for this kind of source."""
    from launch.redaction import redact

    for name, reason in _OPTIONS.items():
        value = getattr(config, name)
        if name in allowed or value in (None, False):
            continue
        option = f"--{name.replace('_', '-')}"
        given = option if value is True else f"{option} {value}"
        raise ValueError(f"{given}: --source {redact(config.source)} is {kind}, {reason}: drop {option}")


def _kind_of_folder(path: Path) -> str:
    """`tables`, which archives for `datasets` are, too; `tars`; or `images`, whatever else it may hold."""
    if _is_dataset(path):
        return "tars"  # whose indexes look like images
    from data_pipeline.image_folder import image_extensions
    from data_pipeline.table_source import TABLES

    pictures, counts = image_extensions() - {_ARRAYS}, Counter()
    for suffix in _suffixes(path):
        counts["picture" if suffix in pictures else "table" if suffix in TABLES else suffix] += 1
        if counts["picture"] - counts["table"] > _MOST_ODD_FILES:  # clear enough: there may be millions more
            return "images"
    # Beside tars there may lie a table of each, as img2dataset writes them, and arrays of embeddings, but no pictures.
    if counts[".tar"] and counts[".tar"] >= counts["table"] and not counts["picture"]:
        return "tars"
    # A table's README may show a picture, and a tree of images come with a table of something else.
    images = counts["picture"] + counts[_ARRAYS]
    if counts["table"] > images:
        return "tables"
    return "tables" if counts[".zip"] and not images else "images"


def _is_dataset(path: Path) -> bool:
    try:
        content = json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def _suffixes(folder: Path) -> Iterator[str]:
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.splitext(name)[1].lower() for name in names if not name.startswith("."))
