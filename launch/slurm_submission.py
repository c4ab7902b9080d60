"""From a training command to a job in the queue: what can be known beforehand is checked, then it is handed in."""

import os
import shutil
from pathlib import Path

from launch.atomic import write_atomically, write_json
from launch.batch_script import SlurmJob
from launch.slurm_queue import SlurmError, queued, submit
from launch.strict_json import read_json
from launch.training_command import TrainingCommand
from launch.world_fit import check_fit

_SUBMITTED = "submitted.json"


def check_job(job: SlurmJob) -> list[str]:
    """What a user should know of a job that will do.

    Raises:
        ValueError: the script would refuse its options, or its number of processes; or it does not train.
    """
    command, config = job.command, job.config
    if Path(command.words[0]).parent.name == "data_pipeline":
        raise ValueError(
            f"{command.words[0]} trains nothing and makes job arrays of its own: give its command without this one, "
            "with --engine slurm --slurm.jobs 64"
        )
    if config.seeds:
        if command.option("--seed") is not None:
            raise ValueError("--seeds gives each run its own --seed: drop the one after `--`")
        command = TrainingCommand((*command.words, "--seed", str(config.seeds[0])))
    _check_environment(config.environment)
    said = check_fit(command, config.nodes, config.processes_of_node)
    if config.cpus is None:
        said.append("warning: without --cpus some clusters give a node's processes and loaders a single core")
    said.append(f"assumed: every node finds {job.folder}, {job.out}, the data and the interpreter under these paths")
    return said


def hand_in(job: SlurmJob, script: str) -> str:
    """Submit the script, and keep it in the run folder; the number of the job.

    Raises:
        ValueError: there is no Slurm, it refuses, or a job for this folder is in its queue.
        OSError: the folder cannot be written.
    """
    if shutil.which("sbatch") is None:
        raise ValueError(
            "sbatch not found: give the command on a login node of the cluster; with --dry-run it shows anywhere what "
            "it would submit"
        )
    try:
        earlier = submitted(job.out)
        if earlier is not None and (there := queued(earlier)):
            state = next(iter(there.values())).state
            raise ValueError(
                f"{job.out}: job {earlier} is in the queue for it ({state}); follow it with "
                f"--follow-run {job.command.out}, or end it before with: scancel {earlier}"
            )
        job.logs.mkdir(parents=True, exist_ok=True)
        number = submit(script)
    except SlurmError as error:
        raise ValueError(str(error)) from error
    path = job.logs / f"{number}.sh"
    write_atomically(path, script)
    os.chmod(path, 0o700)  # addresses of data may hold passwords
    write_json(job.logs / _SUBMITTED, {"job": number, "seeds": list(job.config.seeds)})
    return number


def submitted(out: Path) -> str | None:
    """The job that was last handed in for a run folder, None for none. Raises ValueError for a damaged file."""
    path = out / "slurm" / _SUBMITTED
    return str(read_json(path)["job"]) if path.exists() else None


def tasks(out: Path, job: str) -> dict[str, Path]:
    """The run folders of a job, by the numbers of its tasks; a job that is no array is its own task."""
    seeds = read_json(out / "slurm" / _SUBMITTED)["seeds"]
    return {f"{job}_{index}": out / f"seed-{seed}" for index, seed in enumerate(seeds)} or {job: out}


def _check_environment(environment: str | None) -> None:
    if environment is None or os.path.isfile(environment):
        return
    if len(environment.split()) == 1 and ("/" in environment or environment.endswith(".sh")):
        raise ValueError(f"--environment {environment}: no such file; give one, or the lines themselves in quotes")
