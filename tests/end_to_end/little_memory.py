"""Run a script whose memory ends soon after a step of its training has begun.

python little_memory.py MEGABYTES RANK SCRIPT [argument ...]: on this rank, while a step runs, the process's address
space is limited to what it had when the step began and so many MB more, whereupon allocations really fail. After a step
that failed the limit stays, for what is tried then; between steps there is none, as what is meant is the step. It is
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
    """Patch the step, so that on this rank each runs with the limit."""
    step = Stepper.step
    is_here = int(os.environ.get("RANK", "0")) == rank
    before, hard = resource.getrlimit(resource.RLIMIT_AS)

    def limited(self: Stepper, inputs: Any) -> Any:
        if is_here:
            _return_what_is_freed()
            resource.setrlimit(resource.RLIMIT_AS, (address_space() + megabytes * 1_000_000, hard))
        outcome = step(self, inputs)
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))
        return outcome

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
