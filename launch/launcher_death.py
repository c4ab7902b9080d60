"""A training process does not outlive its launcher: torchrun or accelerate killed with -9 would leave it on the GPU."""

import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_INITS = frozenset({"systemd", "init", "tini", "dumb-init", "docker-init", "catatonit", "s6-svscan", "runit", "pause"})
"""Names of processes that adopt those whose parent has died."""


def end_with_launcher() -> None:
    """Call it first in a training process: when its launcher dies it gets TERM, and so saves and leaves.

    Without effect where no launcher started it, as someone may want `nohup python`, and where the system is not Linux.
    Only the process that calls it is meant; those that it starts see their pipes close.
    """
    is_elastic = "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    is_ranked = "RANK" in os.environ and "LOCAL_RANK" in os.environ
    if sys.platform != "linux" or not (is_elastic or is_ranked):
        return
    import ctypes

    parent = os.getppid()
    # The kernel means the thread that started this process, which in torchrun and accelerate is the main one. Where it
    # refuses (a sandbox) there is nothing else to be done, and no reason not to train.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    # The kernel says nothing of a parent that was dead already. These two launchers stay between init and a rank; other
    # programs set ranks as well, and of those init may be the parent from the start.
    if os.getppid() != parent or (is_elastic and _name(parent) in _INITS):
        os.kill(os.getpid(), signal.SIGTERM)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
