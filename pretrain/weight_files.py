"""Weights that others have made, where they lie: a file, a folder or a repository of the Hub. No file's code is run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from launch.redaction import redact
from launch.strict_json import read_json

FACEBOOKS = "model.pth"
"""The file of weights in a folder of facebook's layout."""
_NAMES = ("model.safetensors", "pytorch_model.bin", FACEBOOKS)
_SAID = ["config.json", "preprocessor_config.json"]
_PICKLED = (".pth", ".pt", ".bin")
_HUB = re.compile(r"hf://([^/@\s]+/[^/@\s]+)(?:@(\S+))?")
_EXPECTED = (
    "a folder that timm or Transformers has written (config.json with model.safetensors or pytorch_model.bin), a "
    ".safetensors, .pth, .pt or .bin file, or hf://user/name, also hf://user/name@revision"
)
# Half precision has its own rounding, and fp32 holds every value of it.
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class WeightFile:
    """Tensors by the names in the file, float32 on the CPU; what config.json beside them says, {} where there is none.

    `rounded` names the other types that the file had them in.
    """

    path: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    rounded: tuple[str, ...]


def read_weight_file(where: str, option: str) -> WeightFile:
    """Read what a user named; the Hub's is kept in its cache, and read from there while the Hub is out of reach.

    Raises:
        ValueError: nothing there, a file that holds more than finite floating-point tensors or is damaged, a repository
            that does not exist or may not be read; the message begins with `option`.
    """
    path = locate_weights(where, option)
    said = f"{option} {redact(where)}"
    config: dict[str, Any] = {}
    if path.is_dir():
        config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
        path = weights_in(path, said)
    converted, rounded = _as_float32(read_tensors(path, said), said)
    return WeightFile(path, converted, config, rounded)


def read_tensors(path: Path, said: str) -> Mapping[Any, Any]:
    """What a file of weights holds, as it is; ValueError, beginning with `said`, where it cannot be read safely."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path, said)
    if path.suffix in _PICKLED:
        return _read_pickled(path, said)
    raise ValueError(f"{said}: a file of another kind; expected {_EXPECTED}")


def some(names: tuple[str, ...] | list[str]) -> str:
    """The first five of many names, for a message."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"


def locate_weights(where: str, option: str) -> Path:
    """The file or folder that a user named, fetched where it is on the Hub. ValueError as `read_weight_file`."""
    hub = _HUB.fullmatch(where)
    if hub is not None:
        return _fetch(hub[1], hub[2], f"{option} {where}")
    path, said = Path(where), f"{option} {redact(where)}"
    if where.startswith("hf://"):
        raise ValueError(f"{said}: expected hf://user/name or hf://user/name@revision")
    if "://" in where:
        raise ValueError(f"{said}: weights are read from this machine or the Hub; download the file and give its path")
    if not path.exists():
        hint = f"; on the Hub it would be hf://{where}" if re.fullmatch(r"[\w.-]+/[\w.-]+", where) else ""
        raise ValueError(f"{said}: no such file or folder{hint}; expected {_EXPECTED}")
    return path


def _fetch(repository: str, revision: str | None, said: str) -> Path:
    # A broken connection is no OSError but an error of the HTTP library, which changes with huggingface_hub's version.
    broken: Any = HfHubHTTPError.__bases__
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=[*_SAID, _NAMES[0]]))
        # Many repositories hold the same weights twice: the next is asked for only where those before are absent.
        for name in _NAMES[1:]:
            if not any((folder / other).is_file() for other in _NAMES):
                commit = folder.name  # not to meet a newer one
                folder = Path(snapshot_download(repository, revision=commit, allow_patterns=[*_SAID, name]))
    except (OSError, ValueError, *broken) as error:
        reason = redact(" ".join(str(error).split()).rstrip(".")) or type(error).__name__
        raise ValueError(
            f"{said}: the Hub does not give it: {reason}. Check the spelling and the revision; private and gated "
            "repositories need HF_TOKEN, a mirror HF_ENDPOINT"
        ) from error
    if not any((folder / name).is_file() for name in _NAMES):
        raise ValueError(
            f"{said}: this repository holds neither {_NAMES[0]} nor {_NAMES[1]} nor {_NAMES[2]}; where it "
            "holds weights under another name download that file and give its path"
        )
    return folder


def weights_in(folder: Path, said: str) -> Path:
    """The file of weights in a folder; ValueError, beginning with `said`, where there is none."""
    for name in _NAMES:
        if (folder / name).is_file():
            return folder / name
        if (folder / f"{name}.index.json").is_file():
            raise ValueError(f"{said}: its weights are split over several files, expected one; save it again as one")
    found = sorted(path.name for path in folder.iterdir())
    raise ValueError(
        f"{said}: a folder without {_NAMES[0]}, {_NAMES[1]} or {_NAMES[2]}, found {some(found)}; "
        "give the file of weights itself if it has another name"
    )


def _read_safetensors(path: Path, said: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{said}: {path.name} is not a readable safetensors file ({error}); get it anew") from error


def _read_pickled(path: Path, said: str) -> Mapping[Any, Any]:
    """What torch.save wrote: tensors by name, or such a mapping under `model`."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever damaged bytes bring about, the user must be told which file
        classes = _classes_in(path)
        if not classes:
            reason = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
            raise ValueError(
                f"{said}: {path.name} is not a file of tensors that torch.save wrote, or is damaged ({reason}); "
                "get it anew, or as .safetensors"
            ) from error
        raise ValueError(
            f"{said}: {path.name} pickles {some(classes)} beside its tensors, {_way_out(classes)}"
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("model"), Mapping):
        found = found["model"]
    if not isinstance(found, Mapping):
        raise ValueError(  # noqa: TRY004 - the file is wrong, not a call
            f"{said}: {path.name} holds a {type(found).__name__}, expected tensors by name, or these under `model`"
        )
    return found


def _classes_in(path: Path) -> list[str]:
    """What besides tensors a file of torch.save would have imported, by its text alone; [] if that cannot be said."""
    try:
        return sorted(get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # noqa: BLE001 - it is damaged or of another kind, which the caller has seen already
        return []


def _way_out(classes: list[str]) -> str:
    if classes != ["argparse.Namespace"]:
        return "and is not read, for that could run any code; get the weights alone, best as .safetensors"
    return (
        "so it is a training checkpoint, and nothing but tensors is read; keep its weights alone, if you trust it, "
        'with: python -c "import argparse, sys, torch; torch.serialization.add_safe_globals([argparse.Namespace]); '
        "torch.save({'model': torch.load(sys.argv[1], map_location='cpu', weights_only=True)['model']}, sys.argv[2])\" "
        "CHECKPOINT WEIGHTS.pth"
    )


def _as_float32(tensors: Mapping[Any, Any], said: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    other = {str(name): value for name, value in tensors.items() if not isinstance(name, str) or not _is_plain(value)}
    if other:
        kinds = ", ".join(sorted({str(getattr(value, "dtype", type(value).__name__)) for value in other.values()}))
        raise ValueError(
            f"{said}: expected floating-point tensors by name, found {kinds} under {some(list(other))}; "
            "give the weights alone of a plain vision transformer, not quantised"
        )
    converted = {name: tensor.detach().float() for name, tensor in tensors.items()}
    broken = [name for name, tensor in converted.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{said}: NaN or infinite values in {some(broken)}; get the file anew, or another one")
    rounded = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()} - {"float32"}
    return converted, tuple(sorted(rounded))


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype in _FLOATS and value.layout == torch.strided
