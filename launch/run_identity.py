"""Whether a folder holds the run that is asked for: its config, and what it has made."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.strict_json import ABSENT, differences, read_json

_BEFORE_A_RUN = frozenset({"logs", "slurm", "exit.json", "stop"})
_NO_RESULTS = _BEFORE_A_RUN | {".lock", "config.json", "environment.json", "stalls", "tensorboard", "teacher.json"}


def compare_run(
    path: Path, config: Mapping[str, Any], may_change: frozenset[str], at_default: frozenset[str] = frozenset()
) -> tuple[bool, tuple[tuple[str, Any, Any], ...]]:
    """Whether the folder holds this run already, and the permitted changes: (dotted field, there, asked for).

    Fields of `may_change`, or that lie in one, may differ. Those of `at_default` have their defaults and may be absent:
    a run of an earlier version did not know them, and did what their defaults say.

    Raises:
        ValueError: it holds anything else.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: is a file, expected a folder; give another --out")
    config_path = path / "config.json"
    if not config_path.exists():
        _require_empty(path)
        return False, ()
    changes = [
        change
        for change in differences(read_json(config_path), config)
        if change[1] != ABSENT or change[0] not in at_default
    ]
    refused = [change for change in changes if not _is_allowed(change[0], may_change)]
    if refused and _has_made_nothing(path):
        return False, ()
    if refused:
        lines = [f"  {name}: folder has {_show(old)}, asked for {_show(new)}" for name, old, new in refused]
        options = " ".join(option for name, old, _ in refused if (option := _option(name, old)))
        same = f", or continue this one with {options}" if options else ""
        raise ValueError(
            f"{path}: holds another run, which differs in fields that cannot change on resume:\n"
            + "\n".join(lines)
            + f"\ngive another --out for a new run{same}"
        )
    return True, tuple(changes)


def _require_empty(path: Path) -> None:
    if not path.exists():
        return
    # Launchers may put their logs here first, and a run that never started its exit.json.
    foreign = sorted(p.name for p in path.iterdir() if not p.name.startswith(".") and p.name not in _BEFORE_A_RUN)
    if foreign:
        raise ValueError(
            f"{path}: not a run folder: it holds {foreign[0]}{f' and {len(foreign) - 1} more' * (len(foreign) > 1)}, "
            "but no config.json; expected a new, an empty or a run's folder: give another --out"
        )


def _has_made_nothing(path: Path) -> bool:
    """Whether a run ended before its first step, as one does whose options turn out not to fit: others may be tried."""
    files = (found for found in path.rglob("*") if found.is_file())
    return all(found.relative_to(path).parts[0] in _NO_RESULTS for found in files)


def _is_allowed(name: str, may_change: frozenset[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[: length + 1]) in may_change for length in range(len(parts)))


def _show(value: Any) -> str:
    return ABSENT if value == ABSENT else json.dumps(value)


def _option(name: str, value: Any) -> str:
    """The option that gives a field the value which the folder has; "" where no option can."""
    if value == ABSENT or isinstance(value, dict):
        return ""
    if name == "recipe":
        return f"the recipe {value}"
    head, dot, tail = name.replace("_", "-").rpartition(".")
    if isinstance(value, bool):
        return f"--{head}{dot}{'' if value else 'no-'}{tail}"
    words = value if isinstance(value, list) else [value]
    return " ".join([f"--{head}{dot}{tail}", *map(str, words)])
