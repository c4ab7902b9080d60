"""Which tars a user names: those of a folder, one, or a pattern with braces, here or in a store, and their splits."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from data_pipeline.location import RemotePath, StoreError, locate
from launch.redaction import redact

_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_ORDER = ("train", "validation", "test")


@dataclass(frozen=True)
class TarFiles:
    """The tars that `source` names: by split, in order, their paths below a folder."""

    source: str
    folder: Path | RemotePath
    splits: dict[str, tuple[str, ...]]

    def __str__(self) -> str:
        return redact(self.source)


def find_tars(source: str) -> TarFiles:
    """The tars of a folder and those below it, or those that a pattern stands for.

    The first word of a file's name, or else of the folders below `source`, that is called like a split tells the split;
    without one it is `train`.

    Raises:
        ValueError: no tars there, or a pattern that is none.
        OSError: a folder that cannot be read.
    """
    shown = redact(source)
    if names_tars(source):
        path, mark, query = source.partition("?") if "://" in source else (source, "", "")
        before = path if Path(source).exists() else path.partition("{")[0]
        start = before.rfind("/") + 1
        folder = locate(path[:start] + mark + query if start else Path())
        files = [path[start:]] if Path(source).exists() else _expand(path[start:], shown)
        missing = [file for file in files if isinstance(folder, Path) and not (folder / file).is_file()]
        if missing:
            raise ValueError(f"--source {shown}: {len(missing)} of {len(files)} tars are missing, such as {missing[0]}")
    else:
        folder = locate(source)
        files = sorted(name for name in _names(folder) if name.endswith(".tar") and not re.search(r"(^|/)\.", name))
        if not files:
            raise ValueError(f"--source {shown}: no file in it, or in a folder below it, ends in .tar")
    splits: dict[str, list[str]] = {}
    for file in files:
        words = [word for part in reversed(file.lower().split("/")) for word in re.split("[^a-z]+", part)]
        split = next((_SPLITS[word] for word in words if word in _SPLITS), "train")
        splits.setdefault(split, []).append(file)
    return TarFiles(source, folder, {split: tuple(splits[split]) for split in _ORDER if split in splits})


def names_tars(source: str) -> bool:
    """Whether a source is tars themselves (its path ends in .tar), and no folder."""
    return (source.partition("?")[0] if "://" in source else source).endswith(".tar") and not Path(source).is_dir()


def _expand(pattern: str, shown: str) -> list[str]:
    """What a pattern stands for, in order: `{000..012}` counts, `{a,b}` lists; itself without braces."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    first, mark, last = found[1].partition("..")
    if mark and first.isdecimal() and last.isdecimal() and int(first) <= int(last) < int(first) + 1_000_000:
        inner = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    elif "," in found[1]:
        inner = found[1].split(",")
    else:
        raise ValueError(f"--source {shown}: {found[0]} is neither a count such as {{000..012}} nor a list {{a,b}}")
    before, after = pattern[: found.start()], _expand(pattern[found.end() :], shown)
    return [f"{before}{word}{rest}" for word in inner for rest in after]


def _names(folder: Path | RemotePath) -> list[str]:
    """Of all files below a folder, the paths."""
    if isinstance(folder, Path):
        paths, seen = [], set[tuple[int, int]]()
        for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in seen:  # a link that leads in a circle, or to the same folder again
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders.sort()
            paths += [str(Path(place, name).relative_to(folder)) for name in names]
        return paths
    from fsspec.core import url_to_fs

    try:
        files, root = url_to_fs(folder.url)
        found = [path.removeprefix(root.rstrip("/")).lstrip("/") for path in files.find(root)]
    except Exception as error:  # noqa: BLE001 - whatever a driver raises, its text may hold credentials
        raise StoreError(f"{folder}: stage list: {type(error).__name__}: {redact(str(error))}") from None
    return [unquote(name) for name in found] if folder.scheme.startswith("http") else found


def _raise(error: OSError) -> None:
    raise error
