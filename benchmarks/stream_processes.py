"""Running the processes in which the stream is measured; each gets its job as JSON and prints its result as JSON."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def run(script: str, job: Mapping[str, Any]) -> Result:
    """The result of one process, a script beside this file. Raises RuntimeError with its error."""
    return run_together(script, [job])[0]


def run_together(
    script: str, jobs: Sequence[Mapping[str, Any]], environment: Mapping[str, str] | None = None
) -> list[Result]:
    """The results of processes that run at the same time, `environment` added to theirs.

    Raises:
        RuntimeError: one has failed, with its error.
    """
    path = Path(__file__).with_name(script)
    processes = [
        subprocess.Popen(
            [sys.executable, str(path), json.dumps(job)],
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for job in jobs
    ]
    outputs = [process.communicate() for process in processes]
    for process, (_, error) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(f"{script}: exit code {process.returncode}: {error.strip()}")
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]
