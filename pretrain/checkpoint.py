"""Checkpoints: whole or absent, verified when read, safetensors and JSON only.

checkpoints/latest                      the name of the newest
checkpoints/best                        of a run that chooses: the name of that which its evaluations found best
checkpoints/step-00001000/model.safetensors      weights, by parameter name
                          optimizer.safetensors  the optimizer's state, `name.exp_avg` and so on
                          average.safetensors    of a run that keeps one: the average of the weights
                          state.json             step, the stream's state, what bit-equality depends on
                          checksums.json         SHA-256 of these
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from launch.atomic import Guard, atomic_folder, write_atomically
from launch.file_hash import file_sha256
from pretrain.averaging import Average
from pretrain.optimizer import kinds_of_state
from pretrain.sharding import like

_STEP = re.compile(r"step-(\d{8,})")
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_AVERAGE = "average.safetensors"
_LATEST = "latest"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder that has been verified."""

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return self.state["step"]

    @property
    def has_average(self) -> bool:
        """Whether it holds an average of the weights."""
        return "average" in self.state


def save_checkpoint(
    folder: Path,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    state: Mapping[str, Any],
    guard: Guard | None,
    *,
    average: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write `folder/step-N` aside, sync it and rename it; `latest` still names the one before.

    weights: by parameter name; moments: by `optimizer_tensors`; average: as the weights, None for a run without one;
    all on the CPU. state: JSON with "step", and "average" where there is one, `Average.state()`.

    Raises:
        OSError: a full disk; what was there is untouched.
    """
    assert (average is None) == ("average" not in state)
    final = folder_of_step(folder, state["step"])
    if final.exists():  # left by a run that was killed before `latest` moved, or damaged
        if guard is not None:
            guard()  # before the removal too: to a world that was taken over it would be another's checkpoint
        shutil.rmtree(final)
    files = {"model.safetensors": weights, "optimizer.safetensors": moments}
    files |= {} if average is None else {_AVERAGE: average}
    wanted = sum(tensor.nbytes for tensors in files.values() for tensor in tensors.values())
    with atomic_folder(final, guard, bytes_wanted=wanted) as partial:
        for name, tensors in files.items():
            save_file(dict(tensors), partial / name)
        (partial / "state.json").write_text(json.dumps(state, indent=1) + "\n")
        sums = {name: file_sha256(partial / name) for name in (*files, "state.json")}
        (partial / "checksums.json").write_text(json.dumps(sums, indent=1) + "\n")
    return final


def move_latest(
    folder: Path, newest: Path, keep: int, guard: Guard | None, *, every: int = 0, records: Sequence[int] = ()
) -> None:
    """Let `latest` name the newest checkpoint, and `prune` those before it."""
    write_atomically(folder / _LATEST, newest.name + "\n", guard)
    prune(folder, keep, every=every, records=records)


def prune(folder: Path, keep: int, *, every: int, records: Sequence[int]) -> None:
    """Of the checkpoints up to the one that `latest` names, remove all but `keep` and each `every` steps' one.

    records: steps of the evaluations that beat all before them. Of each of the newest `keep` the best one until then
    stays too: whichever of them a run goes on from, what was the best by then is there.
    """
    latest = (folder / _LATEST).read_text().strip()
    steps = [path for path in _checkpoints(folder) if path.name <= latest]
    spared = {max((one for one in records if one <= _step_of(path)), default=None) for path in steps[-keep:]}
    for path in steps[:-keep]:
        if _step_of(path) not in spared and (every == 0 or _step_of(path) % every != 0):
            shutil.rmtree(path)


def folder_of_step(folder: Path, step: int) -> Path:
    """Where a run's checkpoint of this step is, if there is one."""
    return folder / f"step-{step:08d}"


def has_checkpoints(folder: Path) -> bool:
    """Whether a run's folder of checkpoints names one."""
    return (folder / _LATEST).is_file()


def newest_step(folder: Path) -> int:
    """The step of the checkpoint that `latest` names, which nobody has looked into; 0 without any."""
    return _step_of(Path((folder / _LATEST).read_text().strip())) if has_checkpoints(folder) else 0


def go_back_to(folder: Path, checkpoint: Checkpoint, guard: Guard | None) -> None:
    """Let `latest` name an earlier checkpoint, and remove those after it."""
    write_atomically(folder / _LATEST, checkpoint.path.name + "\n", guard)
    for path in _checkpoints(folder):
        if path.name > checkpoint.path.name:
            shutil.rmtree(path)


def newest_checkpoint(folder: Path, warn: Callable[[str], None], *, before: int | None = None) -> Checkpoint | None:
    """The checkpoint that `latest` names or, where that is damaged, the newest whole one before it.

    `before`: only those of earlier steps are looked at; None where there is none.

    Raises:
        ValueError: there are checkpoints, but none is whole.
    """
    if not has_checkpoints(folder):
        return None
    latest = (folder / _LATEST).read_text().strip()
    damaged: list[str] = []
    candidates = [path for path in _checkpoints(folder) if path.name <= latest]
    if before is not None:
        candidates = [path for path in candidates if _step_of(path) < before]
        if not candidates:
            return None
    for path in reversed(candidates):
        try:
            checkpoint = read_checkpoint(path)
        except ValueError as error:
            damaged.append(str(error))
            continue
        for problem in damaged:
            warn(f"warning: {problem}; going on from {path.name}, the newest whole one before it")
        return checkpoint
    raise ValueError(
        f"{folder}: no whole checkpoint ({'; '.join(damaged) or f'{latest} is gone'}); "
        "restore one from a backup, or remove the run folder to begin again"
    )


def find_checkpoint(where: str, option: str, warn: Callable[[str], None]) -> Checkpoint:
    """The checkpoint at a path that a user named: a checkpoint folder, or the newest one of a run folder.

    Raises:
        ValueError: there is none; `option` is named in the message.
    """
    path = Path(where)
    if (path / "state.json").is_file():
        return read_checkpoint(path)
    checkpoint = newest_checkpoint(path / "checkpoints", warn) if path.is_dir() else None
    if checkpoint is None:
        raise ValueError(
            f"{option} {where}: expected a checkpoint folder (with state.json) or a run folder with checkpoints, "
            f"found {'a folder without either' if path.is_dir() else 'no such folder'}"
        )
    return checkpoint


def read_checkpoint(path: Path) -> Checkpoint:
    """Verify a checkpoint folder's checksums and read its state. Raises ValueError naming what is damaged."""
    try:
        sums = json.loads((path / "checksums.json").read_text())
        for name in _FILES if _AVERAGE not in sums else (*_FILES, _AVERAGE):
            if file_sha256(path / name) != sums[name]:
                raise ValueError(f"checkpoint {path}: {name} differs from its checksum")
        return Checkpoint(path, json.loads((path / "state.json").read_text()))
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"checkpoint {path}: not whole ({error})") from error


def is_ours(where: str) -> bool:
    """Whether a path is what `find_checkpoint` looks into, as against weights of others."""
    path = Path(where)
    return (path / "state.json").is_file() or (path / "checkpoints").is_dir()


def load_weights(checkpoint: Checkpoint, model: nn.Module, *, within: str = "", averaged: bool = False) -> None:
    """Load the weights; every name and shape must match. Raises ValueError listing those that do not.

    within: how the names of the model's parameters begin in the checkpoint, where that holds more. averaged: the
    average of the weights instead, which the checkpoint must have.
    """
    path = checkpoint.path / (_AVERAGE if averaged else "model.safetensors")
    expected = model.state_dict()
    tensors = {name.removeprefix(within): value for name, value in _load(path).items() if name.startswith(within)}
    check_fit(tensors, expected, str(path))
    model.load_state_dict({name: like(tensor, expected[name]) for name, tensor in tensors.items()})


def load_average(checkpoint: Checkpoint, average: Average) -> None:
    """Load the average of the weights, and how far it is. Raises ValueError where there is none, or another model's."""
    if not checkpoint.has_average:
        raise ValueError(
            f"checkpoint {checkpoint.path} holds no average of the weights, which this run keeps: the run that wrote "
            "it kept none; go on without one, or begin a new run with these weights"
        )
    tensors = _load(checkpoint.path / _AVERAGE)
    check_fit(tensors, average.tensors, str(checkpoint.path / _AVERAGE))
    average.load(tensors, checkpoint.state["average"])


def load_optimizer(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
    """Load the optimizer's state by parameter name. Raises ValueError where it is of other parameters, or of an
    algorithm that keeps something else. adamw and lamb keep the same two averages, and take over each other's.

    Parameters may lack state if they did when it was saved: `without_moments`, in the checkpoint's state.
    """
    path = checkpoint.path / "optimizer.safetensors"
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    number = {name: index for index, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {index: {} for index in range(len(names))}
    unknown = []
    for full, tensor in _load(path).items():
        name, _, kind = full.rpartition(".")
        if name not in number:
            unknown.append(full)
            continue
        parameter = parameters[number[name]]
        is_shared_out = tensor.shape == parameter.shape  # a count of steps is not
        state[number[name]][kind] = like(tensor, parameter) if is_shared_out else tensor
    had_none = checkpoint.state.get("without_moments", [])
    missing = [name for name in names if not state[number[name]] and name not in had_none]
    if unknown or missing:
        raise ValueError(f"{path}: state of other parameters: unknown {_some(unknown)}; missing {_some(missing)}")
    found, kept = {kind for kinds in state.values() for kind in kinds}, kinds_of_state(optimizer)
    if found and kept and found != kept:
        raise ValueError(
            f"{path}: the state of another algorithm, of {', '.join(sorted(found))}, where {type(optimizer).__name__} "
            f"keeps {', '.join(sorted(kept))}; give the --optimizer.algorithm of the run that wrote it, or start with "
            "its weights alone"
        )
    stepped = {index: kinds for index, kinds in state.items() if kinds}
    optimizer.load_state_dict({"state": stepped, "param_groups": optimizer.state_dict()["param_groups"]})


def check_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Raise ValueError, naming them, unless names and shapes are exactly those expected."""
    missing = sorted(expected.keys() - tensors.keys())
    extra = sorted(tensors.keys() - expected.keys())
    shapes = [
        f"{name} {list(tensors[name].shape)} instead of {list(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if tensors[name].shape != expected[name].shape
    ]
    shapes += [
        f"{name} in {tensors[name].dtype} instead of {expected[name].dtype}"
        for name in sorted(expected.keys() & tensors.keys())
        if tensors[name].is_floating_point() != expected[name].is_floating_point()
    ]
    if missing or extra or shapes:
        raise ValueError(
            f"{where} does not fit the model: missing {_some(missing)}; not expected {_some(extra)}; "
            f"of another shape {_some(shapes)}; give the options of the run that wrote it"
        )


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _STEP.fullmatch(path.name))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"
