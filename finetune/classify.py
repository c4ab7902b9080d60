"""Fine-tune a pre-trained encoder as a classifier, or train one from scratch (`--init none`).

python finetune/classify.py RECIPE --data DATASET --init RUN --out RUN2, or the same under `accelerate launch`. The same
command goes on with a run that was interrupted.
"""

import os

from finetune.recipes import RECIPES
from launch.launcher_death import end_with_launcher
from launch.one_process import warn_of_one_process
from launch.settings import parse
from launch.start_up import without_collection


def main() -> None:
    """Train, evaluate and export as the command line says."""
    assert __doc__ is not None
    recipe, config = parse(__doc__, RECIPES)
    # Read when torch is loaded: threads that spin while they wait take the cores from the loader.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of lost processes a line says enough
    end_with_launcher()
    warn_of_one_process()
    with without_collection():  # --help must not wait for torch
        from finetune.classification import classify
        from pretrain.session import explained
        from pretrain.world import World

    with (
        explained(),
        World(config.precision, deterministic=config.deterministic, patience=config.patience_seconds) as world,
    ):
        classify(recipe, config, world)


if __name__ == "__main__":
    main()
