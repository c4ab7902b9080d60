"""Evaluate a classifier exactly, each image once, or compare evaluations of the same images.

python finetune/validate.py --model MODEL --data DATASET --out FOLDER, or the same under `accelerate launch`: the same
bits on any number of processes. FOLDER then holds evaluation.json, predictions.parquet (a row an image), and two
figures. The same command does it anew.

python finetune/validate.py --compare A B: which of two is better, by a paired bootstrap and McNemar's test.
"""

import os

from finetune.validate_config import ValidateConfig
from launch.launcher_death import end_with_launcher
from launch.one_process import warn_of_one_process
from launch.settings import parse_options
from launch.start_up import without_collection


def main() -> None:
    """Evaluate or compare as the command line says."""
    assert __doc__ is not None
    config = parse_options(__doc__, ValidateConfig)
    # Read when torch is loaded: threads that spin while they wait take the cores from the loader.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of lost processes a line says enough
    end_with_launcher()
    warn_of_one_process()
    if config.compare:
        with without_collection():  # --help must not wait for torch
            from finetune.paired_comparison import compare
            from launch.console import Console
            from pretrain.session import explained

        with explained():
            compare(config, Console(int(os.environ.get("RANK", "0"))))
        return
    with without_collection():
        from finetune.validation import validate
        from pretrain.session import explained
        from pretrain.world import World

    with explained(), World(config.precision, deterministic=config.deterministic) as world:
        validate(config, world)


if __name__ == "__main__":
    main()
