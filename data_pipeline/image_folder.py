"""A folder tree of images: with folders of splits at the top or without, with folders of classes or without."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.manifest import NO_LABEL
from data_pipeline.sources import Contents, Entry, Listing

_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_ORDER = ("train", "validation", "test")
# Pillow opens these too, but they are no pictures, or it needs a program to draw them.
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# First bytes of JPEG, PNG, GIF, WebP, BMP and TIFF: a file without an extension may as well be a LICENSE.
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class FolderSource:
    """A folder tree; the names of its images are their paths below it, with `/` between the parts."""

    folder: str
    labelled: bool

    def list_images(self) -> Contents:
        """Splits are `train`, `val` (or `valid`, `validation`) and `test` where all images lie in folders so called.

        The class is the first folder below the split, in splits all of whose images lie in such folders.

        Raises:
            ValueError: no images; names the extensions looked for.
            OSError: a folder that cannot be read.
        """
        sizes, others = _scan(self.folder)
        if not sizes:
            raise ValueError(_no_images(self.folder, others))
        paths = sorted(sizes)
        notes = [f"{others:,} files that are not images are left out"] if others else []
        split_of = _split_of_folders(paths, notes)
        by_split: dict[str, list[str]] = {}
        for path in paths:
            by_split.setdefault(split_of.get(path.split("/", 1)[0], "train"), []).append(path)
        depth = 1 if split_of else 0
        class_of: dict[str, str] = {}
        for split, members in by_split.items() if self.labelled else ():
            outside = [path for path in members if path.count("/") <= depth]
            if not outside:
                class_of.update((path, path.split("/")[depth]) for path in members)
            elif len(outside) < len(members):
                notes.append(
                    f"{split}: {len(outside):,} images lie in no class folder, the first is {outside[0]}: "
                    "the split is taken as unlabelled"
                )
        classes = sorted(set(class_of.values()))
        number = {name: label for label, name in enumerate(classes)}
        splits = {}
        for split in sorted(by_split, key=_ORDER.index):
            members = by_split[split]
            labels = [number[class_of[path]] if path in class_of else NO_LABEL for path in members]
            splits[split] = Listing(members, np.array(labels, np.int64), np.array([sizes[path] for path in members]))
        description = f"folder of images {self.folder}"
        return Contents(splits, tuple(classes) if classes else None, description, tuple(notes), {})

    def read(self, split: str, entry: Entry, limit: int | None = None) -> bytes:  # the name tells the split
        """The file's bytes."""
        with open(Path(self.folder, entry.name), "rb", buffering=0 if limit else -1) as file:
            return file.read(-1 if limit is None else limit)


def image_extensions() -> frozenset[str]:
    """The extensions of files that Pillow reads as pictures: lower case, with the dot."""
    from PIL import Image

    registered = Image.registered_extensions()
    return frozenset(
        extension for extension, kind in registered.items() if kind in Image.OPEN and kind not in _NOT_PICTURES
    )


def _scan(folder: str) -> tuple[dict[str, int], int]:
    """Bytes of each image by its name, and the number of other files."""
    extensions = image_extensions()
    sizes: dict[str, int] = {}
    others = 0
    for name, entry in _walk(folder, "", ()):
        if _is_image(entry, extensions):
            sizes[name] = entry.stat().st_size
        else:
            others += 1
    return sizes, others


def _walk(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    # Linked folders are followed, unless they lead to one that we are in: that would never end.
    found = os.stat(folder)
    here = (found.st_dev, found.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        members = sorted(entries, key=lambda entry: entry.name)
    for entry in members:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", (*above, here))
        elif entry.is_file():
            yield prefix + entry.name, entry


def _is_image(entry: os.DirEntry[str], extensions: frozenset[str]) -> bool:
    extension = os.path.splitext(entry.name)[1].lower()
    if extension:
        return extension in extensions
    with open(entry.path, "rb", buffering=0) as file:
        return file.read(8).startswith(_STARTS)


def _split_of_folders(paths: list[str], notes: list[str]) -> dict[str, str]:
    """The split of each folder at the top; empty where the folders at the top are not splits."""
    tops = {path.split("/", 1)[0] if "/" in path else "" for path in paths}
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
