"""Run a script whose memory ends soon after its training has begun.

python little_memory.py MEGABYTES RANK SCRIPT [argument ...]: on this rank, when the first step begins, the process's
address space is limited to what it has by then and so many MB more, whereupon allocations really fail. The step is
patched here from outside, so that the product has no hooks for tests.
"""

import ctypes
import os
import resource
import runpy
import sys
from pathlib import Path
from typing import Any

from pretrain.step import Stepper


def limit(megabytes: int, rank: int) -> None:
    """Patch the step, so that the first one sets the limit on this rank."""
    step = Stepper.step
    is_set = int(os.environ.get("RANK", "0")) != rank

    def limited(self: Stepper, inputs: Any) -> Any:
        nonlocal is_set
        if not is_set:
            _return_what_is_freed()
            most = address_space() + megabytes * 1_000_000
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            is_set = True
        return step(self, inputs)

    Stepper.step = limited  # type: ignore[method-assign]


def _return_what_is_freed() -> None:
    """Let malloc take every larger block from the system, and give it back: what it kept would be lost to others."""
    mmap_threshold = -3  # M_MMAP_THRESHOLD of malloc.h
    assert ctypes.CDLL(None).mallopt(mmap_threshold, 65536) == 1


def address_space() -> int:
    """Bytes of it that this process has taken, whether it uses them or not."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (size,) = (line.split()[1] for line in lines if line.startswith("VmSize:"))
    return int(size) * 1024


if __name__ == "__main__":
    limit(int(sys.argv[1]), int(sys.argv[2]))
    sys.argv = sys.argv[3:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
