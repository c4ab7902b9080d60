"""What the doctor is asked: the options of a training command, and the machines that it is for; imports nothing heavy.

The options are those of the training scripts, so that the words of a training command can be given as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from launch.settings import Recipe
from pretrain.distill_config import DistillConfig
from pretrain.distill_recipes import RECIPES as DISTILL_RECIPES
from pretrain.feature_distill_config import FeatureDistillConfig
from pretrain.feature_recipes import RECIPES as FEATURE_RECIPES
from pretrain.mae_config import MaeConfig
from pretrain.recipes import RECIPES as MAE_RECIPES

PlannedConfig = MaeConfig | DistillConfig | FeatureDistillConfig


@dataclass(frozen=True)
class _Machines:
    nodes: int = 1
    """Machines that the run is to have."""
    gpus: int = 1
    """Processes on each of them: one for each GPU."""
    hours: float | None = None
    """Hours that there are for the run; None: as many as it takes."""
    report: str | None = None
    """JSON file to write the findings to; None: they are printed only."""

    def check_machines(self) -> None:
        """Raise ValueError unless there is at least one process, and some time."""
        for option in ("nodes", "gpus", "hours"):
            value = getattr(self, option)
            if value is not None and value <= 0:
                raise ValueError(f"--{option} expects a positive number, got {value}")


@dataclass(frozen=True)
class MaeVisit(_Machines, MaeConfig):
    """Of a run of pretrain/mae.py. Raises ValueError as that does."""

    def __post_init__(self) -> None:
        MaeConfig.__post_init__(self)
        self.check_machines()


@dataclass(frozen=True)
class DistillVisit(_Machines, DistillConfig):
    """Of a run of pretrain/distill.py. Raises ValueError as that does."""

    def __post_init__(self) -> None:
        DistillConfig.__post_init__(self)
        self.check_machines()


@dataclass(frozen=True)
class FeatureDistillVisit(_Machines, FeatureDistillConfig):
    """Of a run of pretrain/distill.py that learns features. Raises ValueError as that does."""

    def __post_init__(self) -> None:
        FeatureDistillConfig.__post_init__(self)
        self.check_machines()


Visit = MaeVisit | DistillVisit | FeatureDistillVisit
_VISITS: dict[type[Any], type[Any]] = {
    MaeConfig: MaeVisit,
    DistillConfig: DistillVisit,
    FeatureDistillConfig: FeatureDistillVisit,
}


def recipes() -> dict[str, Recipe[Any]]:
    """The recipes of the training scripts, with the doctor's own options."""
    found: Mapping[str, Recipe[Any]] = {**MAE_RECIPES, **DISTILL_RECIPES, **FEATURE_RECIPES}
    return {
        name: Recipe(_VISITS[type(recipe.config)](**vars(recipe.config)), recipe.outcome)
        for name, recipe in found.items()
    }


def training_config(visit: Visit) -> PlannedConfig:
    """The config that the training script would have of the same words."""
    kind = next(kind for kind, own in _VISITS.items() if isinstance(visit, own))
    return kind(**{field.name: getattr(visit, field.name) for field in fields(kind)})
