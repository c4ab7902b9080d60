"""Run a script in several processes that meet on CPUs, all forks of this one, without what a launcher costs to start.

python ranks.py PROCESSES PORT SCRIPT [argument ...]: ends when all have ended, with the exit code of the first that
failed. Tests of launchers and of what they do use `accelerate launch`.
"""

import os
import runpy
import sys
from pathlib import Path


def fork(processes: int, port: str) -> list[int]:
    """The ranks' process ids; empty in each of them."""
    started = []
    for rank in range(processes):
        pid = os.fork()
        if pid == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"}
            os.environ |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            return []
        started.append(pid)
    return started


if __name__ == "__main__":
    pids = fork(int(sys.argv[1]), sys.argv[2])
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    if codes:
        sys.exit(next((code for code in codes if code != 0), 0))
    sys.argv = sys.argv[3:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
