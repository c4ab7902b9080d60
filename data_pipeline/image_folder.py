"""A folder tree of images: with folders of splits at the top or without, with folders of classes or without."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.sources import Entry, Found, Outline

_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
# Pillow opens these too, but they are no pictures, or it needs a program to draw them.
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_ARRAYS = ".npy"
_SIDECAR = ".json"
_JSON_KINDS = {
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
# First bytes of JPEG, PNG, GIF, WebP, BMP and TIFF: a file without an extension may as well be a LICENSE.
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class FolderSource:
    """A folder tree; the names of its images are their paths below it, with `/` between the parts.

    `labelled`: whether class folders give labels. `annotated`: whether `x.json` beside `x.jpg` is read. The tree is
    walked twice, first for its layout, then for the images, and only one folder's names are in memory at a time.
    """

    folder: str
    labelled: bool
    annotated: bool

    def outline(self) -> Outline:
        """Splits are `train`, `val` (or `valid`, `validation`) and `test` where all images lie in folders so called.

        The class is the first folder below the split, in splits all of whose images lie in such folders.

        Raises:
            ValueError: no images; names the extensions looked for.
            OSError: a folder that cannot be read.
        """
        annotated = self.annotated and self._layout.has_sidecars
        return Outline(None, f"folder of images {self.folder}", self._layout.notes, annotated=annotated)

    def images(self) -> Iterator[Found]:
        """Folder by folder, each in the order of its names; `place` is 1 where a sidecar file lies beside the image."""
        layout = self._layout
        for file in _walk(self.folder):
            if not file.is_image:
                continue
            top, *inner = file.name.split("/")
            split = layout.splits.get(top, "train")
            folders = inner[:-1] if layout.splits else [top, *inner][:-1]
            label = folders[0] if folders and split in layout.labelled else None
            size = os.stat(os.path.join(self.folder, file.name)).st_size
            yield Found(split, file.name, label, size, int(file.has_sidecar))

    def read(self, split: str, entry: Entry, limit: int | None = None) -> bytes:  # the name tells the split
        """The file's bytes."""
        with open(Path(self.folder, entry.name), "rb", buffering=0 if limit else -1) as file:
            return file.read(-1 if limit is None else limit)

    def annotations(self, split: str, entry: Entry) -> dict[str, Any]:
        """What the sidecar file holds.

        Raises:
            ValueError: anything but a JSON object.
            OSError: it cannot be read.
        """
        if not self.annotated or not entry.place:
            return {}
        path = Path(self.folder, _stem(entry.name) + _SIDECAR)
        try:
            found = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
            problem = "" if isinstance(found, dict) else f"holds {_JSON_KINDS[type(found)]}"
        except (ValueError, RecursionError) as error:
            found, problem = {}, f"no JSON: {error}"
        if problem:
            raise ValueError(
                f"{path}: {problem}; expected an object that describes {entry.name}, such as "
                '{"caption": "a dog"}; mend the file, or leave all such files out with --metadata none'
            )
        return found

    @cached_property
    def _layout(self) -> "_Layout":
        return _survey(self.folder, self.labelled)


@cache
def image_extensions() -> frozenset[str]:
    """The extensions of files that are read as pictures: Pillow's, and NumPy's; lower case, with the dot."""
    from PIL import Image

    registered = Image.registered_extensions()
    pictures = (name for name, kind in registered.items() if kind in Image.OPEN and kind not in _NOT_PICTURES)
    return frozenset((*pictures, _ARRAYS))


class _Layout(NamedTuple):
    """The split of each folder at the top, empty where those are no splits; which splits have class folders."""

    splits: dict[str, str]
    labelled: frozenset[str]
    has_sidecars: bool
    notes: tuple[str, ...]


class _File(NamedTuple):
    name: str
    is_image: bool
    has_sidecar: bool


def _survey(folder: str, labelled: bool) -> _Layout:
    # By folder at the top, and number of folders above the image: 0, 1, or 2 for more.
    counts: Counter[tuple[str, int]] = Counter()
    first: dict[tuple[str, int], str] = {}
    others, has_sidecars = 0, False
    for file in _walk(folder):
        if not file.is_image:
            others += 1
            continue
        has_sidecars |= file.has_sidecar
        depth = file.name.count("/")
        where = (file.name.split("/", 1)[0] if depth else "", min(depth, 2))
        counts[where] += 1
        first.setdefault(where, file.name)
    if not counts:
        raise ValueError(_no_images(folder, others))
    notes = [f"{others:,} files that are not images are left out"] if others else []
    splits = _split_of_folders({top for top, _ in counts}, notes)
    images: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    first_outside: dict[str, str] = {}
    for (top, depth), count in counts.items():
        split = splits.get(top, "train")
        images[split] += count
        if depth <= (1 if splits else 0):
            outside[split] += count
            first_outside.setdefault(split, first[top, depth])
    for split in images if labelled else ():
        if 0 < outside[split] < images[split]:
            notes.append(
                f"{split}: {outside[split]:,} images lie in no class folder, the first is {first_outside[split]}: "
                "the split is taken as unlabelled"
            )
    with_classes = frozenset(split for split in images if labelled and not outside[split])
    return _Layout(splits, with_classes, has_sidecars, tuple(notes))


def _walk(folder: str, prefix: str = "", above: tuple[tuple[int, int], ...] = ()) -> Iterator[_File]:
    """All files but hidden ones and the sidecars of images."""
    # Linked folders are followed, unless they lead to one that we are in: that would never end.
    found = os.stat(folder)
    here = (found.st_dev, found.st_ino)
    if here in above:
        return
    names, folders = [], set()  # and not the entries: a folder may hold millions
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # Such as __MACOSX of an archive, and the __index__ of a dataset folder, whose .npy files are no images.
            if entry.is_dir() and entry.name.startswith("__"):
                continue
            if entry.is_dir():
                folders.add(entry.name)
            if entry.is_dir() or entry.is_file():
                names.append(entry.name)
    names.sort()
    jsons = {_stem(name) for name in names if name.endswith(_SIDECAR) and name not in folders}
    described = set()
    if jsons:
        files = (name for name in names if name not in folders and _stem(name) in jsons)
        described = {_stem(name) for name in files if _is_image(os.path.join(folder, name))}
    for name in names:
        path = os.path.join(folder, name)
        if name in folders:
            yield from _walk(path, f"{prefix}{name}/", (*above, here))
        elif not (name.endswith(_SIDECAR) and _stem(name) in described):
            yield _File(prefix + name, _is_image(path), _stem(name) in described)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _is_image(path: str) -> bool:
    extension = os.path.splitext(path)[1].lower()
    if extension:
        return extension in image_extensions()
    with open(path, "rb", buffering=0) as file:
        return file.read(8).startswith(_STARTS)


def _split_of_folders(tops: set[str], notes: list[str]) -> dict[str, str]:
    """The split of each folder at the top; empty where the folders at the top are not splits. "" is none of them."""
    known = {top: _SPLITS[top.lower()] for top in tops if top.lower() in _SPLITS}
    others = sorted(tops - set(known))
    if known and others:
        beside = ", ".join(f"{top}/" if top else "images" for top in others[:3]) + (", ..." if others[3:] else "")
        notes.append(
            f"{', '.join(f'{top}/' for top in sorted(known))} lies beside {beside}: "
            "taken as a folder like any other, not as a split"
        )
        return {}
    return known


def _no_images(folder: str, others: int) -> str:
    looked_for = " ".join(sorted(image_extensions()))
    return (
        f"--source {folder}: no images in this folder or below it, but {others:,} other files; "
        f"looked for files that end in {looked_for}, or in nothing and begin like an image; hidden ones are left out"
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has no {name}")
