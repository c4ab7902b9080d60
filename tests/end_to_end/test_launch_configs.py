"""`accelerate launch` as users start it: with a config file for CPUs, and so that it quietly starts one process."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

ACCELERATE = str(Path(sys.executable).with_name("accelerate"))
SHORT = ("--epochs", 0.5, "--optimizer.warmup-epochs", 0.1, "--workers", 0, "--tracker", "none")


def test_the_config_for_cpus_starts_two_processes(runs: "Runs", digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = runs.ROOT / "launch/configs/cpu-2.yaml"
    words = [ACCELERATE, "launch", "--config_file", str(config), str(runs.MAE), *runs.options(digits, out, *SHORT)]
    # Not `start`: nothing but the file may say that these are CPUs.
    finished = runs.ended(runs.Child(words, tmp_path / "log"), out)
    assert json.loads((out / "environment.json").read_text())["world"] == 2
    assert "2 x cpu" in finished.out
    assert "warning" not in finished.err.lower()


def test_one_process_instead_of_two_is_told(runs: "Runs", tmp_path: Path) -> None:
    """The same call as in our scripts, which would import torch after it."""
    script = tmp_path / "train.py"
    script.write_text("from launch.one_process import warn_of_one_process\nwarn_of_one_process()\nprint('trains')\n")
    words = [ACCELERATE, "launch", "--cpu", "--num_processes", "2", str(script), "digits"]
    finished = runs.Child(words, tmp_path / "log").wait().expect(0)
    (warning,) = [line for line in finished.err.splitlines() if line.startswith("warning: ")]
    assert warning.startswith(
        "warning: accelerate launch was asked for 2 processes (--num_processes 2) and has started"
    )
    line = f"accelerate launch --multi_gpu --num_processes 2 {script} digits"
    assert warning.endswith(f"What starts 2: ACCELERATE_USE_CPU=true {line}")
    assert finished.out == "trains\n"
