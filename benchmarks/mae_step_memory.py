"""Peak memory of one contender's training step, in a process of its own: `python mae_step_memory.py JOB`, both in JSON.

On a GPU what torch has allocated at most, weights and optimizer included. On a CPU, where libraries and the compiler
share the process, the most that is resident during steps beyond what is between them: activations and gradients.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mae_step_contenders import Running, Setting, set_up
from stream_processes import run_together

_STEPS = 2
# What is freed goes back to the system at once. By default more and more of it stays, and would not count as a step's.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}
_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(name: str, setting: Setting) -> int | None:
    """Bytes, of a contender by name; None on a CPU where the kernel is not Linux. RuntimeError if the process fails."""
    return run_together(Path(__file__).name, [{**asdict(setting), "contender": name}], _MALLOC)[0]["bytes"]


def main() -> None:
    """Measure, print the result on the last line."""
    import torch

    job: dict[str, Any] = json.loads(sys.argv[1])
    name, setting = job.pop("contender"), Setting(**job)
    torch.set_num_threads(setting.threads)
    running = set_up(name, setting)
    running.step().item()  # compiles, and makes the optimizer's state
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        _run(running)
        result: int | None = torch.cuda.max_memory_allocated()
    else:
        result = _resident_peak(running)
    print(json.dumps({"bytes": result}))


def _run(running: Running) -> None:
    for _ in range(_STEPS):
        running.step().item()


def _resident_peak(running: Running) -> int | None:
    if not _FORGET.exists():
        return None
    _FORGET.write_text("5")  # sets the peak to what is resident now
    before = _kilobytes("VmRSS")
    _run(running)
    return 1024 * (_kilobytes("VmHWM") - before)


def _kilobytes(field: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


if __name__ == "__main__":
    main()
