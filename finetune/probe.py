"""Measure what frozen features know: k nearest neighbours, linear layers, few images a class, on a split with labels.

python finetune/probe.py RECIPE --data DATASET --init RUN --out PROBE, or the same under `accelerate launch`. The result
is PROBE/probe.json. The same command goes on with a run that was interrupted.
"""

import os

from finetune.probe_recipes import RECIPES
from launch.launcher_death import end_with_launcher
from launch.one_process import warn_of_one_process
from launch.settings import parse
from launch.start_up import without_collection


def main() -> None:
    """Probe as the command line says."""
    assert __doc__ is not None
    recipe, config = parse(__doc__, RECIPES)
    # Read when torch is loaded: threads that spin while they wait take the cores from the loader.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of lost processes a line says enough
    end_with_launcher()
    warn_of_one_process()
    with without_collection():  # --help must not wait for torch
        from finetune.probing import probe
        from pretrain.session import explained
        from pretrain.world import World

    with explained(), World(config.precision, deterministic=config.deterministic) as world:
        probe(recipe, config, world)


if __name__ == "__main__":
    main()
