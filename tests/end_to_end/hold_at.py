"""Run a script whose training does not get past a step until a file is there, however late a test's signal comes.

python hold_at.py STEP FILE SCRIPT [argument ...]: the line of that step, or of the first one after it that has a line,
waits for FILE. The run folder is patched here from outside, so that the product has no hooks for tests.
"""

import runpy
import sys
import time
from pathlib import Path
from typing import Any

from launch.run_folder import RunFolder


def hold_at(step: int, file: Path) -> None:
    """Patch the writing of metrics, so that lines of this step and later ones wait."""
    append = RunFolder.append_metrics

    def patched(run: RunFolder, metrics: dict[str, Any]) -> None:
        while metrics["step"] >= step and not file.exists():
            time.sleep(0.005)
        append(run, metrics)

    RunFolder.append_metrics = patched


if __name__ == "__main__":
    hold_at(int(sys.argv[1]), Path(sys.argv[2]))
    sys.argv = sys.argv[3:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
