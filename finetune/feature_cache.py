"""Features kept in files, so that images are decoded and encoded once for all probes of a model on a dataset.

A file is named by the SHA-256 of all that its features depend on, which it also holds in full, with a checksum of what
it holds. It is a convenience: one that is damaged is written anew, and where none can be written none is.
"""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from launch.atomic import PARTIAL, explain_full_disk, sync_folder

_IDENTITY, _CHECKSUM = "identity", "checksum"
_DAY = 86_400.0


class FeatureCache:
    """A folder of such files; any number of processes may use it at the same time."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self._say = say

    def path_of(self, identity: Mapping[str, Any]) -> Path:
        """The file of what depends on this and nothing else."""
        return self.folder / f"{hashlib.sha256(_canonical(identity).encode()).hexdigest()}.safetensors"

    def read(self, identity: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The tensors that were kept; None, and a word why, where the file is not what it should be."""
        path = self.path_of(identity)
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                said: dict[str, str] = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (OSError, SafetensorError) as error:
            return self._refuse(path, str(error))
        if said.get(_IDENTITY) != _canonical(identity):
            return self._refuse(path, "it describes other features")
        if said.get(_CHECKSUM) != _checksum(tensors):
            return self._refuse(path, "its checksum is another one")
        return tensors

    def write(self, identity: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors on the CPU, in place of what is there; says where, or why they are not kept."""
        path = self.path_of(identity)
        temporary = path.with_name(f"{PARTIAL}{path.name}-{secrets.token_hex(6)}")
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        size = sum(tensor.nbytes for tensor in whole.values())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_left_over()
            with explain_full_disk(path, size):
                temporary.touch()
                rights = temporary.stat().st_mode  # that the user's umask leaves; safetensors gives others none
                save_file(whole, temporary, {_IDENTITY: _canonical(identity), _CHECKSUM: _checksum(whole)})
                temporary.chmod(rights)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.replace(path)
                sync_folder(self.folder)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            self._say(f"not kept for other probes: {error}")
        else:
            self._say(f"kept for other probes, {size / 1e6:,.1f} MB: {path}")

    def _refuse(self, path: Path, why: str) -> None:
        self._say(f"{path}: not what was kept here ({why}); the features are computed anew")

    def _remove_left_over(self) -> None:
        """What killed writers left: nobody writes a file for a day."""
        for path in self.folder.glob(f"{PARTIAL}*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _DAY:
                    path.unlink()


def _canonical(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and bytes."""
    found = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return found.hexdigest()
