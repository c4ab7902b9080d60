"""Scripts of this repository in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[1]


class CommandError(Exception):
    """A script has failed: the text ends with what it said."""


def run_script(words: Sequence[str], threads: int) -> str:
    """What a script of this repository says, the first of `words`, given the others, on so many threads.

    Raises:
        CommandError: it ends with another exit code than 0.
    """
    command = [sys.executable, str(_ROOT / words[0]), *words[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if found.returncode:
        last = "\n".join((found.stdout + found.stderr).strip().splitlines()[-5:])
        raise CommandError(f"{' '.join(words)}: exit code {found.returncode}:\n{last}")
    return found.stdout
