"""The dataset's contract: `manifest.json`, and beside each tar an index that numpy maps.

The manifest is O(shards); what is O(samples) stays in the indexes, which are opened one shard at a time.
"""

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.atomic import write_json

FORMAT = "sherd-dataset"
VERSION = 1
MANIFEST = "manifest.json"
NO_LABEL = -1

# One row a sample. Offsets count from the start of the tar. Width and height are those after the EXIF orientation
# (1-8, as in EXIF) has been applied. Checksums are XXH3-64 of the image's bytes and of all annotations' bytes in order.
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
        ("reserved", "<u4"),
    ]
)


class DatasetError(RuntimeError):
    """The dataset's bytes are not what its manifest promises; the message names the shard and the repair."""


@dataclass(frozen=True)
class Shard:
    """One tar: file names relative to the dataset folder, sizes in bytes, SHA-256 in hex."""

    file: str
    samples: int
    bytes: int
    sha256: str
    index: str
    index_sha256: str


@dataclass(frozen=True)
class Split:
    """The shards of one split, in order, all with the same image extension."""

    extension: str
    shards: tuple[Shard, ...]

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """Hash of the shards' hashes: two splits with the same fingerprint hold the same bytes in the same order."""
        lines = "".join(f"{shard.sha256} {shard.samples}\n" for shard in self.shards)
        return hashlib.sha256(lines.encode()).hexdigest()


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
    """A dataset folder's description. `made` records source, options and library versions."""

    folder: Path
    classes: tuple[str, ...] | None
    statistics: Statistics
    made: dict[str, Any]
    splits: dict[str, Split]

    def split(self, name: str) -> Split:
        """The split of that name. Raises ValueError listing those there are."""
        if name not in self.splits:
            raise ValueError(f"{self.folder / MANIFEST}: no split {name!r}; it has: {', '.join(self.splits)}")
        return self.splits[name]

    def repair(self, shard: str) -> str:
        """The command that writes one shard again."""
        where = f"--out {shlex.quote(str(self.folder))} --only {shlex.quote(shard)}"
        return f"python data_pipeline/shard.py {self.made['command']} {where}"

    def to_json(self) -> dict[str, Any]:
        """What `manifest.json` holds."""
        splits = {
            name: {
                "fingerprint": split.fingerprint,
                "samples": split.samples,
                "bytes": split.bytes,
                "extension": split.extension,
                "shards": [asdict(shard) for shard in split.shards],
            }
            for name, split in self.splits.items()
        }
        fields = {"image": sorted({split.extension for split in self.splits.values()})}
        if self.classes is not None:
            fields["label"] = ["cls"]
        return {
            "format": FORMAT,
            "version": VERSION,
            "fields": fields,
            "classes": self.classes,
            "statistics": asdict(self.statistics),
            "made": self.made,
            "splits": splits,
        }


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check `folder/manifest.json`.

    Raises:
        FileNotFoundError: no manifest there.
        ValueError: not a sherd manifest, a newer version, a missing entry, or shards that were edited by hand.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: no {MANIFEST}, so this is not a dataset folder; "
            f"make one with: python data_pipeline/shard.py --source IMAGES --out {folder}"
        )
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"{path}: format is {content['format']!r}, expected {FORMAT!r}")
        if content["version"] > VERSION:
            raise ValueError(f"{path}: version {content['version']} is newer than {VERSION}, which this sherd reads")
        splits = {
            name: Split(split["extension"], tuple(Shard(**shard) for shard in split["shards"]))
            for name, split in content["splits"].items()
        }
        classes = None if content["classes"] is None else tuple(content["classes"])
        statistics = {name: tuple(value) for name, value in content["statistics"].items()}
        manifest = Manifest(folder, classes, Statistics(**statistics), content["made"], splits)
        recorded = {name: split["fingerprint"] for name, split in content["splits"].items()}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a readable manifest ({error!r}); write the dataset again") from error
    for name, split in splits.items():
        if recorded[name] != split.fingerprint:
            raise ValueError(f"{path}: split {name!r}: the fingerprint does not match its shards: edited by hand?")
    return manifest


def write_manifest(manifest: Manifest) -> None:
    """Write `manifest.json` into the dataset folder: all of it or, on an OSError, nothing."""
    write_json(manifest.folder / MANIFEST, manifest.to_json())


def open_index(manifest: Manifest, shard: Shard) -> np.ndarray:
    """Map a shard's index (dtype `INDEX_DTYPE`, one row a sample), verified by its hash.

    Raises:
        DatasetError: the index is absent or differs from the manifest.
    """
    path = manifest.folder / shard.index
    repair = f"rewrite it with: {manifest.repair(shard.file)}"
    if not path.is_file():
        raise DatasetError(f"index {shard.index}: missing from {manifest.folder}; {repair}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != shard.index_sha256:
        raise DatasetError(
            f"index {shard.index}: manifest lists sha256 {shard.index_sha256[:12]}, found {found[:12]}; {repair}"
        )
    index = np.load(path, mmap_mode="r")
    assert index.dtype == INDEX_DTYPE
    assert len(index) == shard.samples
    return index


def sample_starts(split: Split) -> NDArray[np.int64]:
    """Number of the first sample of each shard, and at the end the number of samples: shape (shards + 1,)."""
    return np.concatenate([[0], np.cumsum([shard.samples for shard in split.shards], dtype=np.int64)])


def locate_sample(starts: NDArray[np.int64], samples: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """Shard number and row in that shard's index of each sample number."""
    shards = np.searchsorted(starts, samples, side="right") - 1
    return shards, np.asarray(samples) - starts[shards]
