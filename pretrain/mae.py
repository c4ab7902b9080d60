"""Pre-train a vision transformer without labels by masked autoencoding (He et al. 2022, arXiv:2111.06377).

python pretrain/mae.py RECIPE --data DATASET --out RUN, or the same under `accelerate launch`. The same command goes on
with a run that was interrupted.
"""

import os

from launch.launcher_death import end_with_launcher
from launch.one_process import warn_of_one_process
from launch.settings import parse
from launch.start_up import without_collection
from pretrain.recipes import RECIPES


def main() -> None:
    """Train, evaluate and export as the command line says."""
    assert __doc__ is not None
    recipe, config = parse(__doc__, RECIPES)
    # On a CPU, threads that spin while they wait take the cores from the loader: measured eight times slower beside
    # one busy process. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Of processes that are lost we say a line; torch's C++ would put a page of stack before it. Read then as well.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    end_with_launcher()
    warn_of_one_process()
    with without_collection():  # --help must not wait for torch
        from pretrain.masked_pretraining import pretrain
        from pretrain.session import explained
        from pretrain.world import World

    with (
        explained(),
        World(config.precision, deterministic=config.deterministic, patience=config.patience_seconds) as world,
    ):
        pretrain(recipe, config, world)


if __name__ == "__main__":
    main()
