"""The dataset's contract: `manifest.json`, and beside each tar an index that numpy maps.

The manifest is O(shards); what is O(samples) stays in the indexes, which are opened one shard at a time.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.location import RemotePath, locate
from data_pipeline.mapped_rows import rows_of
from data_pipeline.shard_table import Shard, ShardTable, sorted_text
from launch.atomic import write_json

FORMAT = "sherd-dataset"
VERSION = 2
MANIFEST = "manifest.json"
NO_LABEL = -1

# One row a sample. Offsets count from the start of the tar. Width and height are those after the EXIF orientation
# (1-8, as in EXIF) has been applied. Checksums are XXH3-64 of the image's bytes and of all annotations' bytes in order.
# `place` is the number in the sample's key, in tars of ours; in those of others that of the row.
INDEX_DTYPE = np.dtype(
    [
        ("offset", "<u8"),
        ("length", "<u8"),
        ("image_offset", "<u8"),
        ("image_length", "<u8"),
        ("image_hash", "<u8"),
        ("annotation_hash", "<u8"),
        ("label", "<i8"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("orientation", "<u4"),
        ("place", "<u4"),
    ]
)


class DatasetError(RuntimeError):
    """The dataset's bytes are not what its manifest promises; the message names the shard and the repair."""


@dataclass(frozen=True)
class Split:
    """The shards of one split, in order, all with the same image extension, channels and type of values.

    `class_counts`: images by class number, empty without labels. `withdrawn`: sorted numbers of samples that take no
    part any more, since `withdrawn.txt` lists their keys; the tars still hold them, and `samples` counts them.
    """

    extension: str
    shards: Sequence[Shard]
    channels: int = 3
    dtype: str = "uint8"
    class_counts: tuple[int, ...] = ()
    withdrawn: tuple[int, ...] = ()

    @cached_property
    def table(self) -> ShardTable:
        """The shards by column."""
        return ShardTable.of(self.shards)

    @property
    def samples(self) -> int:
        return int(self.table.samples.sum())

    @property
    def present(self) -> int:
        """Samples that take part."""
        return self.samples - len(self.withdrawn)

    def members(self, most: int | None = None) -> NDArray[np.int64]:
        """Numbers of the samples that take part, in order: all, or the first so many."""
        count = self.samples if most is None else min(self.samples, most + len(self.withdrawn))
        numbers = np.arange(count, dtype=np.int64)
        return numbers[~np.isin(numbers, self.withdrawn)][:most]

    @property
    def bytes(self) -> int:
        return int(self.table.bytes.sum())

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the shards' hashes: two splits with the same fingerprint show the same bytes in the same order."""
        columns = self.table.column("sha256"), self.table.column("samples")
        lines = [f"{sha256} {samples}\n" for sha256, samples in zip(*columns, strict=True)]
        lines += [f"withdrawn {number}\n" for number in self.withdrawn]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Statistics:
    """Per-channel mean and standard deviation over all training pixels, in [0, 1], and image sizes in pixels.

    `smallest` is the smallest width and the smallest height, each on its own; `largest` likewise.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    smallest: tuple[int, int]
    largest: tuple[int, int]


@dataclass(frozen=True)
class Manifest:
    """A dataset folder's description. `made` records source, options and library versions.

    `tars_at`: folder or URL of the tars, where they are not in this one.
    """

    folder: Path | RemotePath
    classes: tuple[str, ...] | None
    statistics: Statistics
    made: dict[str, Any]
    splits: dict[str, Split]
    tars_at: str | None = None

    @property
    def tars(self) -> Path | RemotePath:
        """Where the tars lie."""
        return self.folder if self.tars_at is None else locate(self.tars_at)

    def split(self, name: str) -> Split:
        """The split of that name. Raises ValueError listing those there are."""
        if name not in self.splits:
            raise ValueError(f"{self.folder / MANIFEST}: no split {name!r}; it has: {', '.join(self.splits)}")
        return self.splits[name]

    def repair(self, shard: str) -> str:
        """What to do about a shard that is not as it should be, with the command; of tars of others, about them all."""
        command = f"python data_pipeline/shard.py {self.made['command']}"
        if self.made.get("options", {}).get("index-only"):
            return f"bring the tar back, or index them anew with: {command} --out {shlex.quote(f'{self.folder}-anew')}"
        return f"rewrite it with: {command} --out {shlex.quote(str(self.folder))} --only {shlex.quote(shard)}"

    def to_json(self) -> dict[str, Any]:
        """What `manifest.json` holds."""
        splits = {
            name: {
                "fingerprint": replace(split, withdrawn=()).fingerprint,
                "samples": split.samples,
                "bytes": split.bytes,
                "extension": split.extension,
                "channels": split.channels,
                "dtype": split.dtype,
                "class_counts": list(split.class_counts),
                "shards": split.table.to_json(),
            }
            for name, split in self.splits.items()
        }
        fields = {"image": sorted({split.extension for split in self.splits.values()})}
        if self.classes is not None:
            fields["label"] = ["cls"]
        if self.made.get("annotated"):
            fields["annotations"] = ["json"]
        content = {
            "format": FORMAT,
            "version": VERSION,
            "fields": fields,
            "classes": self.classes,
            "tars": self.tars_at,
            "statistics": asdict(self.statistics),
            "made": self.made,
            "splits": splits,
        }
        return content | {"checksum": _checksum(content)}


def read_manifest(folder: str | Path, withdraw: bool = True) -> Manifest:
    """Read and check `manifest.json` of a folder or URL; `withdraw`: and its `withdrawn.txt`, if there is one.

    Raises:
        FileNotFoundError: no manifest there.
        ValueError: not a sherd manifest, another version, a missing entry, shards that were edited by hand, or a
            withdrawn key that no sample has.
        StoreError: a store that does not answer.
    """
    where = locate(folder)
    path = where / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{where}: no {MANIFEST}, so this is not a dataset folder; "
            f"make one with: python data_pipeline/shard.py --source IMAGES --out {where}"
        )
    try:
        content = json.loads(path.read_text())
        checksum = content.pop("checksum", None)
        if checksum is not None and checksum != _checksum(content):
            raise ValueError(
                f"{path}: it is not what its checksum says: copy it again if it was damaged; if you changed it on "
                'purpose, take its line "checksum" out'
            )
        if content["format"] != FORMAT:
            raise ValueError(f"{path}: format is {content['format']!r}, expected {FORMAT!r}")
        if content["version"] != VERSION:
            age = "newer" if content["version"] > VERSION else "older"
            raise ValueError(
                f"{path}: version {content['version']} is {age} than {VERSION}, which this sherd reads and writes: "
                "write the dataset again, or use the sherd that wrote it"
            )
        splits = {name: _split(split) for name, split in content["splits"].items()}
        classes = None if content["classes"] is None else tuple(content["classes"])
        statistics = {name: tuple(value) for name, value in content["statistics"].items()}
        recorded = {name: split["fingerprint"] for name, split in content["splits"].items()}
        manifest = Manifest(where, classes, Statistics(**statistics), content["made"], splits, content["tars"])
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a readable manifest ({error!r}); write the dataset again") from error
    for name, split in splits.items():
        if recorded[name] != split.fingerprint:
            raise ValueError(f"{path}: split {name!r}: the fingerprint does not match its shards: edited by hand?")
    from data_pipeline.withdrawn import without_withdrawn

    return without_withdrawn(manifest) if withdraw else manifest


def _checksum(content: dict[str, Any]) -> str:
    found = hashlib.sha256()
    for piece in sorted_text(content):
        found.update(piece.encode())
    return found.hexdigest()


def _split(content: dict[str, Any]) -> Split:
    return Split(
        content["extension"],
        ShardTable.from_json(content["shards"]),
        content["channels"],
        content["dtype"],
        tuple(content["class_counts"]),
    )


def write_manifest(manifest: Manifest) -> None:
    """Write `manifest.json` into the local dataset folder: all of it or, on an OSError, nothing."""
    assert isinstance(manifest.folder, Path)
    write_json(manifest.folder / MANIFEST, manifest.to_json())


def open_index(manifest: Manifest, shard: Shard) -> np.ndarray:
    """A shard's index (dtype `INDEX_DTYPE`, one row a sample), verified by its hash; mapped where it is a local file.

    Raises:
        DatasetError: the index is absent or differs from the manifest.
        StoreError: a store that does not answer.
    """
    path = manifest.folder / shard.index
    repair = manifest.repair(shard.file)
    if not path.is_file():
        raise DatasetError(f"index {shard.index}: missing from {manifest.folder}; {repair}")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != shard.index_sha256:
        raise DatasetError(
            f"index {shard.index}: manifest lists sha256 {shard.index_sha256[:12]}, found {found[:12]}; {repair}"
        )
    return rows_of(data, INDEX_DTYPE, shard.samples, path if isinstance(path, Path) else None)


def key_prefix(split: str) -> str:
    """What file names and keys of a split begin with: its name, without dots, which end a key in a WebDataset."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", split)


def sample_starts(split: Split) -> NDArray[np.int64]:
    """Number of the first sample of each shard, and at the end the number of samples: shape (shards + 1,)."""
    return np.append(0, np.cumsum(split.table.samples))


def locate_sample(starts: NDArray[np.int64], samples: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """Shard number and row in that shard's index of each sample number."""
    shards = np.searchsorted(starts, samples, side="right") - 1
    return shards, np.asarray(samples) - starts[shards]
