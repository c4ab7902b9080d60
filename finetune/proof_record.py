"""What a model folder keeps of its proof, so that anybody can repeat it: proof.json and proof.safetensors.

proof.json has one spelling for what it says, and a checksum of its own: not a bit of it can change unseen.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.proof import Proof, hashes_in
from launch.atomic import write_atomically
from launch.strict_json import from_json, to_json
from pretrain.pixels import Normalization

PROOF, RECORDED, CARD = "proof.json", "proof.safetensors", "README.md"
_FORMAT, _VERSION = "sherd-proof", 2
_MADE_BY_THE_HUB = ".gitattributes"


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint that was the measure: the step and the SHA-256 of its weights file."""

    step: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """What proof.json says; its `proof.files` are all others in the folder. `recorded_pixels` tells what those in
    proof.safetensors show.
    """

    proof: Proof
    checkpoint: Checkpoint
    normalization: Normalization
    recorded_images: int
    recorded_pixels: str

    def to_json(self) -> dict[str, Any]:
        """On one level with what the proof itself says."""
        told = to_json(self)
        return {**told.pop("proof"), **told}

    @staticmethod
    def from_json(told: Mapping[str, Any], where: str) -> "Record":
        """The inverse. Raises ValueError, beginning with `where`."""
        names = {option.name for option in fields(Proof)}
        proof = {name: value for name, value in told.items() if name in names}
        others = {name: value for name, value in told.items() if name not in names}
        return from_json(Record, {"proof": proof, **others}, where)


@dataclass(frozen=True)
class Recorded:
    """What proof.safetensors holds: stored pixels (n, h, w, c), noise where patches are hidden, and the outputs that
    the run's checkpoint had for them, by name.
    """

    pixels: Tensor
    noise: Tensor | None
    expected: dict[str, Tensor]

    def inputs(self, normalization: Normalization) -> dict[str, Tensor]:
        """As a model sees them."""
        images = normalization.normalize(self.pixels).contiguous()
        return {"images": images} if self.noise is None else {"images": images, "noise": self.noise}


def write_recorded(folder: Path, recorded: Recorded) -> None:
    """Write proof.safetensors."""
    tensors = {"pixels": recorded.pixels, **{f"expected.{name}": values for name, values in recorded.expected.items()}}
    if recorded.noise is not None:
        tensors["noise"] = recorded.noise
    save_file({name: values.contiguous() for name, values in tensors.items()}, folder / RECORDED)


def read_recorded(folder: Path) -> Recorded:
    """Read proof.safetensors. Raises ValueError where it cannot be read."""
    try:
        tensors = load_file(folder / RECORDED)
        expected = {name.removeprefix("expected."): values for name, values in tensors.items() if "." in name}
        return Recorded(tensors["pixels"], tensors.get("noise"), expected)
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"{folder / RECORDED}: not readable ({error}); get the folder anew") from error


def write_record(folder: Path, record: Record) -> None:
    """Write proof.json, which names every other file in the folder."""
    write_atomically(folder / PROOF, _spell(record.to_json()))


def read_record(folder: Path) -> Record:
    """Read proof.json, and check every file of the folder against it.

    Raises:
        ValueError: not a folder of ours, or anything in it is not as it was written: names the files.
    """
    path = folder / PROOF
    record = parse_record(path.read_bytes(), str(path)) if path.is_file() else None
    if record is None:
        raise ValueError(f"{folder}: no {PROOF}, so publish.py has not written this; expected a published model folder")
    there = {name: digest for name, digest in hashes_in(folder).items() if name not in (PROOF, _MADE_BY_THE_HUB)}
    files = record.proof.files
    changed = [f"{name} is missing" for name in files if name not in there]
    changed += [f"{name} has been changed" for name, digest in files.items() if there.get(name, digest) != digest]
    changed += [f"{name} is none of its files" for name in there if name not in files]
    if changed:
        raise ValueError(f"{folder}: not as publish.py wrote it: {', '.join(changed)}; get the folder anew")
    return record


def is_earlier(folder: Path) -> bool:
    """Whether the folder is, unchanged, of a sherd before this version of proof.json, whose checksum it lacks."""
    try:
        said = json.loads((folder / PROOF).read_bytes())
        is_old = said["format"] == _FORMAT and said["version"] < _VERSION
        return is_old and said["files"] == {n: h for n, h in hashes_in(folder).items() if n != PROOF}
    except (ValueError, KeyError, TypeError):
        return False


def parse_record(content: bytes, where: str) -> Record:
    """What the bytes of a proof.json say. Raises ValueError, beginning with `where`, unless they are as written."""
    try:
        said = json.loads(content)
        is_ours = said.get("format") == _FORMAT
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{where}: not as publish.py wrote it ({error}); get the folder anew") from error
    if not is_ours:
        raise ValueError(f"{where}: format is {said.get('format')!r}, expected {_FORMAT!r}; get the folder anew")
    if said.get("version") != _VERSION:
        raise ValueError(
            f"{where}: version {said.get('version')}, expected {_VERSION}, which this sherd reads and writes; publish "
            "the run again, or use the sherd that wrote it"
        )
    told = {name: value for name, value in said.items() if name not in ("format", "version", "checksum")}
    if _spell(told) != content:
        raise ValueError(f"{where}: not as publish.py wrote it: its checksum or its spelling is another; get it anew")
    return Record.from_json(told, where)


def _spell(told: Mapping[str, Any]) -> bytes:
    content = {"format": _FORMAT, "version": _VERSION, **told}
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
    return (json.dumps({**content, "checksum": checksum}, indent=2, allow_nan=False) + "\n").encode()
