"""What a run folder records of its stream, read as JSON alone: data, plan, seed, place; and the order that follows."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.manifest import Manifest, read_manifest
from data_pipeline.order import Integers, Mixture, Order, Plan, subset_hash
from data_pipeline.sample_rules import choose_anew
from launch.strict_json import read_json

_STEP = re.compile(r"step-\d{8,}")


@dataclass(frozen=True)
class RecordedRun:
    """`config` is the run's config.json, `checkpoint` its newest whole checkpoint, `stream` the state of its stream."""

    folder: Path
    config: dict[str, Any]
    checkpoint: str
    step: int
    stream: dict[str, Any]

    @property
    def batch_size(self) -> int:
        return self.config["batch_size"]

    @property
    def split(self) -> str:
        return self.config["split"]

    @property
    def skipped(self) -> list[tuple[int, int]]:
        """Run positions that were left out: start and stop of each span, in order."""
        return sorted((start, stop) for start, stop in self.stream["skipped"])

    @property
    def fixed_views(self) -> int | None:
        """How many different views of each sample are shown in all; None: new ones in every epoch."""
        return self.stream.get("fixed_views")

    @property
    def plan(self) -> Plan:
        """Raises ValueError for a plan of another version of sherd."""
        recorded = self.stream["plan"]
        try:
            return Plan(**(recorded | {"weights": tuple(recorded["weights"])}))
        except TypeError as error:
            raise ValueError(f"{self.checkpoint}: a plan that this sherd does not know ({error})") from error


class Ingredient(NamedTuple):
    """One dataset of an order: its split and the numbers of the samples that take part, None for all but withdrawn."""

    manifest: Manifest
    split: str
    members: Integers | None


def read_run(where: str) -> RecordedRun:
    """Read a run folder's config and the state of its newest checkpoint.

    Raises:
        ValueError: it is no run folder, or has no whole checkpoint yet.
    """
    folder = Path(where)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"--run {where}: no config.json there; expected a run folder, the one that --out of "
            "pretrain/mae.py, pretrain/distill.py or finetune/classify.py named"
        )
    config = read_json(folder / "config.json")
    missing = [name for name in ("batch_size", "split") if name not in config]
    if missing:
        raise ValueError(f"--run {where}: config.json has no {missing[0]}: this run has trained on no stream")
    checkpoints = folder / "checkpoints"
    if not (checkpoints / "latest").is_file():
        raise ValueError(f"--run {where}: no checkpoint yet; wait for the first, or ask for one: touch {folder}/stop")
    latest = (checkpoints / "latest").read_text().strip()
    steps = sorted(path for path in checkpoints.iterdir() if _STEP.fullmatch(path.name) and path.name <= latest)
    for path in reversed(steps):
        state = _read_state(path)
        if state is not None:
            return RecordedRun(folder, config, path.name, state["step"], state["stream"])
    raise ValueError(f"--run {where}: none of its checkpoints up to {latest} has a whole state.json; restore one")


def _read_state(path: Path) -> dict[str, Any] | None:
    try:
        data = (path / "state.json").read_bytes()
        sums = json.loads((path / "checksums.json").read_text())
        return json.loads(data) if hashlib.sha256(data).hexdigest() == sums["state.json"] else None
    except (OSError, ValueError, KeyError):
        return None


def find_data(run: RecordedRun, moved_to: Sequence[str]) -> list[Manifest]:
    """The datasets of a run, where its config says or where they have been moved to.

    Raises:
        ValueError: not as many as the run has.
        FileNotFoundError: none there.
    """
    recorded = run.config["data"]
    places = list(moved_to) or [recorded, *run.config.get("also", [])]
    expected = len(run.stream["fingerprints"])
    if len(places) != expected:
        raise ValueError(f"--data: {len(places)} given, the run has {expected} datasets: give each, in their order")
    if moved_to:
        return [read_manifest(place) for place in places]
    return [read_manifest(_from_where_it_began(run, place)) for place in places]


def _from_where_it_began(run: RecordedRun, place: str) -> str:
    """A relative path is meant from where the run was started: the folder that its `out` was relative to."""
    out, here = Path(str(run.config.get("out", ""))), run.folder.resolve()
    if "://" in place or Path(place).is_absolute() or out.is_absolute() or not out.parts:
        return place
    if here.parts[-len(out.parts) :] != out.parts:
        return place
    there = here.parents[len(out.parts) - 1] / place
    return str(there) if there.exists() else place


def find_members(manifest: Manifest, split: str, plan: Plan, seed: int, given: str | None) -> Integers | None:
    """The samples that take part by the rule that the plan names, None for all; chosen anew, or read from `given`.

    Raises:
        ValueError: the rule is not known here, or it chooses others now.
    """
    if given is not None:
        members = read_members(given)
        if not plan.subset.endswith(subset_hash(members)):
            raise ValueError(f"--members {given}: not the samples of the plan's subset {plan.subset!r}: another hash")
        return members
    return choose_anew(manifest, split, plan.subset, seed)


def read_members(path: str) -> Integers:
    """Sample numbers from a .npy file. Raises ValueError for anything else, FileNotFoundError."""
    try:
        members = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"--members {path}: not a .npy file ({error}); write one with numpy.save") from error
    if members.ndim != 1 or members.dtype.kind not in "iu":
        raise ValueError(
            f"--members {path}: {members.dtype} of shape {members.shape}, expected a list of integers: sample numbers"
        )
    return members.astype(np.int64)


def make_orders(ingredients: Sequence[Ingredient], plan: Plan, seed: int) -> list[Order]:
    """The order of each dataset, as a stream makes it. Raises ValueError for a split or subset without samples."""
    splits = [(part.manifest.split(part.split), part.members) for part in ingredients]
    return [
        Order(
            split.table.samples,
            split.table.bytes,
            fingerprint=split.fingerprint,
            plan=plan,
            seed=seed,
            members=members,
            withdrawn=split.withdrawn,
        )
        for split, members in splits
    ]


def make_mixture(ingredients: Sequence[Ingredient], plan: Plan, seed: int) -> Mixture:
    """The order of the whole stream. Raises ValueError as `make_orders` does."""
    return Mixture(make_orders(ingredients, plan, seed), plan)
