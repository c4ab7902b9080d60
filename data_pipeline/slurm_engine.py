"""Tasks as jobs of a Slurm cluster: arrays of jobs of one core, each of which works through its share of the tasks.

The tasks go out, and their results come back, as files that submitit writes to the disk which all nodes share. How a
job fares is read from those files and from `squeue`: many clusters keep no accounts to ask.
"""

import contextlib
import io
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from data_pipeline.config import SlurmConfig
from data_pipeline.engines import Share, Shares
from data_pipeline.task_pool import Report, Task, WorkerDiedError, attempt

if TYPE_CHECKING:
    from submitit import Job, SlurmExecutor

_PROGRAMS = ("sbatch", "srun", "squeue", "scancel")
_PROGRESS_SECONDS = 2.0
_PAUSES = 0.25, 10.0
# How squeue calls jobs that will not run again, which it shows for some minutes, and which of them are nobody's fault.
_UNLUCKY = ("BOOT_FAIL", "NODE_FAIL", "PREEMPTED")
_OVER = (*_UNLUCKY, "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT", "gone")
_MOST_LOSSES = 3
_ADVICE = {
    "TIMEOUT": "one task took longer than a job may: give the same command with more --slurm.minutes",
    "OUT_OF_MEMORY": "its memory was too little: give the same command with more --slurm.memory",
}

States = dict[str, tuple[str, str]]
"""State and reason by job id."""


class Answer(NamedTuple):
    """What a job hands back: results of the first tasks of its share, then perhaps the error that ended it."""

    results: list[Any]
    error: ValueError | OSError | None
    items: int
    seconds: float


@dataclass(eq=False)
class _Running:
    job: "Job[Answer]"
    share: Share
    progress: Path
    reported: int
    missed: float | None = None  # when it was first seen to be over without an answer


class SlurmEngine:
    """At most `config.jobs` jobs at once; how many tasks each is given is for `Shares` to decide.

    folder: on the shared disk; every engine has a folder in it, named as its jobs are. A job that ended is given
    `grace` seconds for its answer to be seen here, which file systems that cache may delay; when Slurm itself does not
    answer for `patience` seconds the run ends.
    """

    def __init__(
        self,
        config: SlurmConfig,
        folder: Path,
        say: Callable[[str], None] = print,
        *,
        grace: float = 60.0,
        patience: float = 600.0,
    ) -> None:
        if find_spec("submitit") is None:
            raise ValueError("--engine slurm needs the package submitit: pip install submitit")
        absent = [program for program in _PROGRAMS if shutil.which(program) is None]
        if absent:
            raise ValueError(
                f"--engine slurm: {', '.join(absent)} not found; give the command on a login node of the cluster, or "
                "leave out --engine to work on this machine"
            )
        self._config = config
        self._name = f"sherd-{secrets.token_hex(4)}"
        self._folder = folder.absolute() / self._name
        self._say = say
        self._grace = grace
        self._patience = patience
        self._running: list[_Running] = []
        self._has_submitted = False
        self._silent_since: float | None = None
        self._reason = ""

    def __enter__(self) -> "SlurmEngine":
        for left in self._folder.parent.glob("sherd-*"):  # by a process that was killed; what its jobs did stays done
            _cancel(left.name)
        self._folder.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None or self._running:
            _cancel(self._name)  # by name: also those whose submission was cut short
        self._running.clear()

    def run(self, tasks: Iterable[Task], report: Report) -> Iterator[Any]:
        """See `Engine.run`."""
        shares = Shares(tasks, self._config.minutes * 60)
        executor = self._executor()
        pause, longest = _PAUSES
        while True:
            has_all = self._submit(executor, shares)
            if has_all and not self._running:
                return
            states = self._states()
            os.utime(self._folder)  # makes network file systems look again for what other machines wrote
            answered = [running for running in self._running if running.job.paths.result_pickle.exists()]
            for running in set(self._running).difference(answered):
                self._watch(running, states, shares, report)
            for running in answered:
                yield from self._collect(running, shares, report)
            pause = _PAUSES[0] if answered else min(pause * 1.5, longest)
            time.sleep(pause)

    def _executor(self) -> "SlurmExecutor":
        from submitit import SlurmExecutor

        executor, own = SlurmExecutor(folder=self._folder), self._config
        chosen = {"partition": own.partition, "account": own.account, "mem": own.memory}
        executor.update_parameters(
            job_name=self._name,
            time=self._config.minutes,
            cpus_per_task=1,
            array_parallelism=self._config.jobs,
            use_srun=False,  # a step would take over settings of a job in which this command itself may run
            **{name: value for name, value in chosen.items() if value is not None},
        )
        return executor

    def _submit(self, executor: "SlurmExecutor", shares: Shares) -> bool:
        """Fill the free places; False where sbatch refused for now and has to be asked again."""
        free = self._config.jobs - len(self._running)
        if self._running and free < max(1, self._config.jobs // 4):
            return True  # not an array for every single job that ends
        if not (taken := shares.take(free)):
            return True
        files = [self._folder / f"progress-{secrets.token_hex(4)}" for _ in taken]
        try:
            jobs = _sbatch(executor, [share.tasks for share in taken], files, self._config.minutes * 60 / 2)
        except OSError as error:
            if not self._has_submitted:
                raise ValueError(
                    f"--engine slurm: sbatch refused the jobs: {error}; see --slurm.partition, --slurm.account, "
                    "--slurm.minutes and --slurm.jobs"
                ) from None
            for share in taken:
                shares.give_back(share)
            self._keep_patience(str(error))
            return False
        self._has_submitted = True
        self._running += [_Running(*each, each[1].reported) for each in zip(jobs, taken, files, strict=True)]
        count, number = sum(len(share.tasks) for share in taken), jobs[0].job_id.partition("_")[0]
        self._say(f"slurm: submitted job {number} (array of {len(jobs)}, named {self._name}) with {count} tasks")
        return True

    def _states(self) -> States | None:
        """Also of jobs that ended lately; None where Slurm does not answer."""
        words = ["squeue", "--noheader", "--array", "--states=all", f"--name={self._name}", "--format=%i|%T|%r"]
        answer = subprocess.run(words, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            self._keep_patience(answer.stderr.strip())
            return None
        self._silent_since = None
        states = parse_queue(answer.stdout)
        waiting = {reason for state, reason in states.values() if state == "PENDING"} - {"None", "Priority"}
        if all(state in ("PENDING", *_OVER) for state, _ in states.values()) and waiting:
            reason = ", ".join(sorted(waiting))
            if reason != self._reason:
                self._say(f"slurm: no job runs, for {reason}; more with: squeue --name={self._name}")
            self._reason = reason
        return states

    def _keep_patience(self, complaint: str) -> None:
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if now - self._silent_since > self._patience:
            raise OSError(
                f"Slurm has not answered for {self._patience:g} s: {complaint}; give the same command again when it "
                "does: it goes on from what is done"
            )

    def _watch(self, running: _Running, states: States | None, shares: Shares, report: Report) -> None:
        """Of a job without an answer: tell its progress; raise or hand its tasks on if there will never be one."""
        with contextlib.suppress(FileNotFoundError):  # it has not begun
            text = running.progress.read_text()
            items = int(text) if text.isdecimal() else 0  # empty in the moment of being written
            if items > running.reported:  # a job that was requeued counts from 0 again
                report(items - running.reported)
                running.reported = items
        if states is None:
            return
        job, share, now = running.job, running.share, time.monotonic()
        # An array that was cancelled as a whole is listed under its own number only.
        state, _ = states.get(job.job_id) or states.get(job.job_id.partition("_")[0]) or ("gone", "")
        if state not in _OVER:
            running.missed = None
            return
        running.missed = running.missed or now
        if now - running.missed < self._grace:
            return
        if state not in _UNLUCKY or share.losses == _MOST_LOSSES:
            advice = _ADVICE.get(state, "give the same command again")
            raise WorkerDiedError(
                f"Slurm job {job.job_id} ({state}) ended without an answer while it was busy with {share}; "
                f"{_log(job.paths.stderr)}; {advice}: it goes on from what is done"
            )
        self._running.remove(running)
        shares.give_back(Share(share.tasks, share.losses + 1, running.reported))
        self._say(f"slurm: job {job.job_id} was lost ({state}); its tasks are handed out again")

    def _collect(self, running: _Running, shares: Shares, report: Report) -> Iterator[Any]:
        from submitit.core.utils import UncompletedJobError

        self._running.remove(running)
        job, share = running.job, running.share
        try:
            answer = job.result()
        except UncompletedJobError as error:
            raise WorkerDiedError(
                f"Slurm job {job.job_id} failed while it was busy with {share}; its log is {job.paths.stderr}; when "
                f"that is put right give the same command again: it goes on from what is done\n{error}"
            ) from None
        report(max(0, answer.items - running.reported))
        shares.learn(len(answer.results), answer.seconds)
        yield from answer.results
        if answer.error is not None:
            raise answer.error
        rest = share.tasks[len(answer.results) :]
        if rest:
            shares.give_back(Share(rest, 0, max(0, running.reported - answer.items)))


def work(tasks: list[Task], progress: Path, seconds: float) -> Answer:
    """A job's whole life: its tasks one after another, but none begun after so many seconds."""
    began = told = time.monotonic()
    results, items = [], 0

    def report(count: int) -> None:
        nonlocal items, told
        items += count
        if time.monotonic() - told > _PROGRESS_SECONDS:
            told = time.monotonic()
            progress.write_text(str(items))

    for task in tasks:
        if results and time.monotonic() - began > seconds:
            break
        kind, value = attempt(task, report)
        if kind == "failed":
            return Answer(results, value, items, time.monotonic() - began)
        results.append(value)
    return Answer(results, None, items, time.monotonic() - began)


def parse_queue(text: str) -> States:
    """Of what `squeue --format=%i|%T|%r` prints."""
    return {number: (state, reason) for number, state, reason in (line.split("|", 2) for line in text.splitlines())}


def _sbatch(
    executor: "SlurmExecutor", shares: list[list[Task]], files: list[Path], seconds: float
) -> "list[Job[Answer]]":
    """Raises OSError with what sbatch complains of."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
            return executor.map_array(work, shares, files, [seconds] * len(shares))
    except (FailedJobError, FailedSubmissionError) as error:
        lines = re.sub(r"sbatch: (error: )?", "", str(error)).strip().splitlines()
        raise OSError(lines[-1] if lines else "no reason given") from None


def _cancel(name: str) -> None:
    subprocess.run(["scancel", f"--name={name}"], capture_output=True, check=False)


def _log(path: Path) -> str:
    """Where a job's log is, and its last line."""
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError:
        return f"it left no log {path}: is that on a disk which the nodes share?"
    return f"its log is {path} (ending: {' '.join(lines[-3:]).strip()})"
