"""Say whether a run would work, and what it would take, before machines are paid for.

python pretrain/doctor.py RECIPE --data DATASET --out RUN --nodes N --gpus G, with any option of the training command,
or the same under `accelerate launch`, which looks at the network too. On machines of the kind that the run will have:
what is measured is told of the machine that it was measured on. Nothing is left in DATASET or RUN.

Exit code 0 only if the run would work, 1 if not, 2 for options that do not go together.
"""

import os
import sys

from launch.launcher_death import end_with_launcher
from launch.one_process import warn_of_one_process
from launch.settings import parse
from launch.start_up import without_collection
from pretrain.doctor_config import recipes


def main() -> int:
    """The exit code."""
    recipe, visit = parse(__doc__ or "", recipes())
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the training scripts do, for what is measured to be theirs
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    end_with_launcher()
    warn_of_one_process()
    with without_collection():  # --help must not wait for torch
        from launch.console import Console
        from pretrain.examination import Examination
        from pretrain.session import explained
        from pretrain.world import World

    how = {"deterministic": visit.deterministic, "patience": visit.patience_seconds}
    with explained(), World(visit.precision, **how) as world:
        # What shares a machine out between its processes goes by this: there will be as many of them.
        os.environ["LOCAL_WORLD_SIZE"] = str(visit.gpus)
        return 0 if Examination(recipe, visit, world, Console(world.rank)).run() else 1


if __name__ == "__main__":
    sys.exit(main())
