"""How a start of a job is judged: by what the run itself says of its end, and what Slurm says of the job's."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from launch.slurm_queue import JobState

Kind = Literal["done", "failed", "stopped", "requeue", "left"]
_NOT_STARTED = {126: "cannot be executed", 127: "was not found"}


class Verdict(NamedTuple):
    """What is to become of a job, and why, in words for its log.

    done, failed and stopped end it; requeue asks Slurm to start it again, and left means that Slurm does so already.
    """

    kind: Kind
    why: str


def judge(word: Mapping[str, Any] | None, job: JobState, restart: int, *, asked: bool, code: int) -> Verdict:
    """After the training processes of a start have ended.

    Args:
        word: what this start has left in exit.json; None for nothing.
        restart: which start this is, from 0.
        asked: the batch script has asked the run to stop, as a signal of Slurm's told it to.
        code: of srun.
    """
    if job.restarts > restart:
        return Verdict("left", "Slurm has queued the job again by itself")
    status, word = (None, {}) if word is None else (word["status"], word)
    if status == "done":
        return Verdict("done", "the run is done")
    is_lost = word.get("cause") == "lost"
    if status == "failed" and not is_lost:
        return Verdict("failed", f"the run has failed: {_error(word)}")
    if not job.is_running:
        # Slurm has ended the job, for good or bad: the run only reacts to that.
        return judge_terminated(job, restart) or Verdict("stopped", "the job was cancelled")
    if status == "preempted":
        return _asked_to_stop(word, job, asked=asked, code=code)
    return Verdict("requeue", f"a part of the run was lost: {_error(word)}") if is_lost else _without_word(code)


def judge_terminated(job: JobState, restart: int) -> Verdict | None:
    """When Slurm ends the job, while its processes still save; None where the job is not to start again."""
    if job.restarts > restart or job.is_running:
        return None
    if job.is_out_of_time:
        return Verdict("requeue", "the time limit was reached before the run had ended; give it more --notice-seconds")
    return Verdict("requeue", "the job was preempted") if job.is_preempted else None


def _error(word: Mapping[str, Any]) -> str:
    return str(word["error"]).partition("\n")[0]


def _without_word(code: int) -> Verdict:
    if code in _NOT_STARTED:
        return Verdict("failed", f"the launcher {_NOT_STARTED[code]}: nothing was trained")
    return Verdict("requeue", f"the run was ended without a word (exit code {code} of srun)")


def _asked_to_stop(word: Mapping[str, Any], job: JobState, *, asked: bool, code: int) -> Verdict:
    # Of a signal, also by the system of a node that shuts down, the launchers die; of the file they do not hear.
    if code == 0 and not asked and not job.is_preempted:
        return Verdict("stopped", f"someone asked the run to stop; it has saved step {word.get('step')}")
    why = "is preempted" if job.is_preempted else "was asked to stop"
    return Verdict("requeue", f"the run {why}, and has saved step {word.get('step')}")
