"""Where and with what a run was made: machine, versions, source revision. Written to environment.json."""

import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launch.redaction import redact


def environment(distributions: Iterable[str]) -> dict[str, Any]:
    """What is known without importing anything heavy. `distributions` are the names to give the versions of.

    Plain JSON; None for what is not installed, not set or not a git checkout.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "hostname": socket.gethostname(),
        "versions": {name: _version(name) for name in distributions},
        "git": git_state(Path(__file__)),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "command_line": [redact(word) for word in sys.argv],
    }


def git_state(file: Path) -> dict[str, Any] | None:
    """{"revision": ..., "dirty": bool} of the checkout that tracks `file`; None when there is none, or no git.

    A file installed into somebody else's checkout (a virtual environment inside it) is not tracked by it.
    """
    if _git(file, "ls-files", "--error-unmatch", file.name) is None:
        return None
    revision = _git(file, "rev-parse", "HEAD")
    changed = _git(file, "status", "--porcelain", "--untracked-files=no")
    if revision is None or changed is None:
        return None
    return {"revision": revision, "dirty": changed != ""}


def _git(file: Path, *arguments: str) -> str | None:
    # Set inside git's own hooks, these point to whatever repository the hook runs for. Without the optional lock,
    # asking for the state of a checkout never disturbs a commit being made in it.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(file.parent), *arguments]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, env=variables)
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout.strip()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
