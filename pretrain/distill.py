"""Train a classifier as DeiT does, alone or beside a teacher, or an encoder on a frozen model's features.

python pretrain/distill.py RECIPE --data DATASET --teacher MODEL --out RUN, or the same under `accelerate launch`. The
same command goes on with a run that was interrupted.
"""

import os
from typing import Any

from launch.launcher_death import end_with_launcher
from launch.one_process import warn_of_one_process
from launch.settings import Recipe, parse
from launch.start_up import without_collection
from pretrain.distill_recipes import RECIPES
from pretrain.feature_distill_config import FeatureDistillConfig
from pretrain.feature_recipes import RECIPES as FEATURE_RECIPES


def main() -> None:
    """Train, evaluate and export as the command line says."""
    assert __doc__ is not None
    recipes: dict[str, Recipe[Any]] = {**RECIPES, **FEATURE_RECIPES}
    recipe, config = parse(__doc__, recipes)
    # Read when torch is loaded: threads that spin while they wait take the cores from the loader.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of lost processes a line says enough
    end_with_launcher()
    warn_of_one_process()
    with without_collection():  # --help must not wait for torch
        from pretrain.distillation import distill
        from pretrain.feature_distillation import distill_features
        from pretrain.session import explained
        from pretrain.world import World

    with (
        explained(),
        World(config.precision, deterministic=config.deterministic, patience=config.patience_seconds) as world,
    ):
        if isinstance(config, FeatureDistillConfig):
            distill_features(recipe, config, world)
        else:
            distill(recipe, config, world)


if __name__ == "__main__":
    main()
