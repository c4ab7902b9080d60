"""What Slurm knows of jobs, and what it is asked to do with them, through its own commands.

Not through submitit, which runs pickled functions and judges a job by the file that such a function leaves: here
launchers run, and the run folder tells how they ended.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from typing import NamedTuple

_PATIENCE_SECONDS = 60.0


class SlurmError(RuntimeError):
    """One of Slurm's commands is absent, or refused; the message is its own."""


class Queued(NamedTuple):
    """A job that is not over. `state` as squeue tells it, `reason` why it waits, `nodes` where it runs."""

    state: str
    reason: str
    nodes: str


@dataclass(frozen=True)
class JobState:
    """A job as the controller sees it.

    restarts: how often it has been queued again, one that is about to happen included. is_out_of_time and is_preempted:
    why Slurm ends it or, with a grace time, will end it.
    """

    is_running: bool
    restarts: int
    is_out_of_time: bool = False
    is_preempted: bool = False


def submit(script: str) -> str:
    """Hand in a batch script; the number of its job. Raises SlurmError."""
    # What describes the job that this is called from, in a shell on a node, would be taken for wishes.
    inside = {name for name in os.environ if name.startswith(("SLURM_", "SBATCH_")) and name != "SLURM_CONF"}
    environment = {name: value for name, value in os.environ.items() if name not in inside}
    answer = _run(["sbatch", "--parsable"], script, environment)
    return answer.strip().partition(";")[0]


def queued(job: str) -> dict[str, Queued]:
    """The tasks of a job that are not over, by number; a job that is no array is its own task. Raises SlurmError."""
    try:
        lines = _run(["squeue", "--noheader", "--array", f"--jobs={job}", "--format=%i|%T|%r|%N"]).splitlines()
    except SlurmError as error:
        if "Invalid job id" in str(error):  # it has been over for some minutes
            return {}
        raise
    found = {}
    for line in lines:
        number, state, reason, nodes = line.split("|")
        found[number] = Queued(state, reason, nodes)
    return found


def job_state(job: str) -> JobState:
    """What Slurm knows of a job. Raises SlurmError."""
    return parse_job_state(_run(["scontrol", "show", "job", "--oneliner", job]))


def parse_job_state(text: str) -> JobState:
    """From the line of `scontrol show job`. Raises SlurmError where it says nothing of a job."""
    # Values hold spaces and further equals signs, but of these four none does.
    found: dict[str, str] = dict(re.findall(r"(?:^| )(JobState|Restarts|Reason|PreemptTime)=(\S+)", text))
    if "JobState" not in found or not found.get("Restarts", "").isdigit():
        raise SlurmError(f"scontrol show job: expected JobState and Restarts, got: {text.strip()[:200]}")
    return JobState(
        is_running=found["JobState"] == "RUNNING",
        restarts=int(found["Restarts"]),
        is_out_of_time=found.get("Reason") == "TimeLimit",
        is_preempted=found.get("PreemptTime", "None") not in ("None", "Unknown"),
    )


def requeue(job: str) -> None:
    """Have a job that runs or ends start again; Slurm lets it wait for two minutes. Raises SlurmError."""
    _run(["scontrol", "requeue", job])


def _run(words: list[str], text: str | None = None, environment: dict[str, str] | None = None) -> str:
    try:
        ended = subprocess.run(
            words,
            input=text,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_SECONDS,
        )
    except FileNotFoundError as error:
        raise SlurmError(f"{words[0]} not found; give the command on a login node of the cluster") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{words[0]} did not answer for {_PATIENCE_SECONDS:.0f} s") from error
    if ended.returncode != 0:
        complaint = " ".join(ended.stderr.split()) or f"exit code {ended.returncode}"
        raise SlurmError(f"{' '.join(words[:2])}: {complaint}")
    return ended.stdout
