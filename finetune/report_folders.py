"""What a report is told of: folders of runs, probes and benchmarks, read as far as they have come."""

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from launch.run_folder import RunFolder
from launch.strict_json import from_json, read_json

Kind = Literal["pre-training", "feature distillation", "distillation", "fine-tuning", "training", "probe", "benchmark"]
"""What a folder is of. `pre-training` is that of pretrain/mae.py; `training` is of a classifier on labels and nothing
else, as pretrain/distill.py trains a teacher of its own first."""
Contents = TypeVar("Contents")

PROBE = "probe.json"
BENCHMARK = "benchmark.json"

_TOLD_BY: dict[str, Kind] = {
    "benchmark": "benchmark",
    "objective": "pre-training",
    "class_weight": "feature distillation",
    "distillation": "distillation",
    "trainable": "fine-tuning",
    "initialization": "training",
    "labels": "fine-tuning",  # as finetune/classify.py wrote it before it knew the two fields above
}
"""Fields of config.json: the first that is there tells the kind. A probe has none of them."""


@dataclass(frozen=True)
class Folder:
    """A folder and its small files; those that are absent or damaged are empty, and `problems` says which are damaged.

    `name` is the folder as the user gave it.
    """

    name: str
    path: Path
    kind: Kind
    config: dict[str, Any]
    metrics: tuple[dict[str, Any], ...]
    environment: dict[str, Any]
    ended: dict[str, Any]
    problems: tuple[str, ...]

    @property
    def training(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl about training."""
        return [line for line in self.metrics if "loss" in line]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl about evaluation."""
        return [line for line in self.metrics if "evaluation_seconds" in line]

    @property
    def status(self) -> str:
        """How the run ended, in a word or a few."""
        if not self.ended and not self.config:
            return "done"  # results alone
        return str(self.ended.get("status", "unknown")) if self.ended else "running or killed"

    def find_data(self) -> Path:
        """Its dataset folder: a relative path is meant from where the run was started, or else from here.

        Raises:
            ValueError: no dataset folder is there.
        """
        data = Path(str(self.config.get("data")))
        started_in = self._started_in()
        places = [data] if started_in is None else [started_in / data, data]
        for place in places:
            if (place / "manifest.json").is_file():
                return place
        raise ValueError(f"dataset folder {data} is not there")

    def _started_in(self) -> Path | None:
        """The folder that the run's `out` was relative to."""
        out, here = Path(str(self.config.get("out", ""))), self.path.resolve()
        if out.is_absolute() or not out.parts or here.parts[-len(out.parts) :] != out.parts:
            return None
        return here.parents[len(out.parts) - 1]


def kind_of(config: Mapping[str, Any]) -> Kind:
    """What a config.json with a recipe is of."""
    for field, kind in _TOLD_BY.items():
        if field in config:
            return kind
    return "probe"


def read_folder(where: str) -> Folder:
    """What lies in a folder of a run, a probe or a benchmark.

    Raises:
        ValueError: it is none of these.
    """
    path = Path(where)
    kind = _kind(where, path)
    problems: list[str] = []

    def read(of: Callable[[], Contents], otherwise: Contents) -> Contents:
        try:
            return of()
        except FileNotFoundError:
            return otherwise
        except (ValueError, OSError) as error:
            problems.append(str(error))
            return otherwise

    run = RunFolder(path)
    return Folder(
        where,
        path,
        kind,
        config=read(lambda: read_json(run.config), {}),
        metrics=tuple(read(run.read_metrics, [])),
        environment=read(lambda: read_json(run.environment), {}),
        ended=read(lambda: read_json(run.exit), {}),
        problems=tuple(problems),
    )


def read_known(contents: type[Contents], path: Path) -> Contents:
    """A JSON file as a dataclass of what a report shows of it; what else the file holds is left aside.

    Raises:
        ValueError: no such file, not JSON, or an entry is missing or of another type.
    """
    if not path.is_file():
        raise ValueError(f"{path.name} is not there")
    return from_json(contents, _known(contents, read_json(path)), str(path))


def sub_runs(folder: Folder) -> list[Folder]:
    """The runs in a benchmark's folder, by name; without what cannot be read as a run."""
    paths = sorted(path.parent for path in folder.path.glob("*/config.json"))
    return [read_folder(str(Path(folder.name) / path.name)) for path in paths if _is_run(path)]


def _kind(where: str, path: Path) -> Kind:
    """By the config, which is there from the start; results alone, which someone was sent, do as well."""
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if (path / BENCHMARK).is_file():
        return "benchmark"
    if (path / PROBE).is_file():
        return "probe"
    if "recipe" not in config and "benchmark" not in config:
        raise ValueError(
            f"{where}: expected the folder of a run (config.json with a recipe), a probe ({PROBE}) or a benchmark "
            f"({BENCHMARK}), got {_found(path)}; give what --out named when it was made"
        )
    return kind_of(config)


def _found(path: Path) -> str:
    if path.is_file():
        return "a file"
    if not path.is_dir():
        return "nothing: there is no such folder"
    if (path / "manifest.json").is_file():
        return "a dataset folder"
    if (path / "model.safetensors").is_file():
        return "a model folder"
    names = sorted(entry.name for entry in path.iterdir())
    if not names:
        return "an empty folder"
    return f"a folder with {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


def _known(hint: Any, value: Any) -> Any:
    """Without the keys of objects that the dataclasses in a type do not have."""
    parts = [part for part in typing.get_args(hint) if part not in (Ellipsis, types.NoneType)]
    if is_dataclass(hint) and isinstance(value, dict):
        hints = typing.get_type_hints(hint)
        return {name: _known(hints[name], value[name]) for name in hints if name in value}
    if typing.get_origin(hint) is tuple and isinstance(value, list) and is_dataclass(parts[0]):
        return [_known(parts[0], item) for item in value]
    return _known(parts[0], value) if len(parts) == 1 and is_dataclass(parts[0]) else value


def _is_run(path: Path) -> bool:
    try:
        return "recipe" in read_json(path / "config.json")
    except (ValueError, OSError):
        return False
