"""The batch script of a training job: what Slurm is asked for, one launcher a node, and what its end means."""

import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from launch.slurm_config import SlurmJobConfig
from launch.training_command import TrainingCommand

_HERE = Path(__file__).parent
_LOGS = "slurm"


@dataclass(frozen=True)
class SlurmJob:
    """A training command as a job: with seeds as an array of jobs, a run folder for each.

    folder: where the command was given, to which its paths are relative.
    """

    config: SlurmJobConfig
    command: TrainingCommand
    folder: Path

    @property
    def out(self) -> Path:
        """The run folder, or with seeds the one that holds them."""
        return Path(os.path.abspath(self.folder / self.command.out))

    @property
    def runs(self) -> tuple[Path, ...]:
        """The run folders, one for each seed."""
        return tuple(self.out / f"seed-{seed}" for seed in self.config.seeds) or (self.out,)

    @property
    def logs(self) -> Path:
        """Where the job leaves its scripts, its logs and what it remembers."""
        return self.out / _LOGS

    def words(self) -> list[str]:
        """The training script and its options, without those that differ between seeds."""
        script, *options = self.command.words
        if self.config.seeds:
            options = _without(options, "--out")
        return [str(_HERE.parent / script), *options]


def batch_script(job: SlurmJob) -> str:
    """The script, as sbatch takes it."""
    number = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if job.config.seeds else "$SLURM_JOB_ID"
    parts = ["#!/bin/bash", *_requests(job), "", *_surroundings(job.config), *_names(job, number), "", _JUDGING]
    judge = ["judge() {", f'    {_quote(sys.executable, _HERE / "job_ending.py")} --moment "$@" \\']
    judge += ['        --run "$run" --record "$logs/$job.json" --job "$job" --restart "$restart" \\']
    judge += [f"        --most-vain-starts {job.config.most_vain_starts}", "}", ""]
    return "\n".join([*parts, *judge, _STOPPING, *_meeting(job), *_training(job), _ENDING])


def _requests(job: SlurmJob) -> list[str]:
    """What is asked of Slurm."""
    config = job.config
    number = "%A_%a" if config.seeds else "%j"
    asked: list[tuple[str, object]] = [
        ("job-name", config.name or f"sherd-{job.out.name}"),
        ("nodes", config.nodes),
        ("ntasks-per-node", 1),
        ("gpus-per-node", config.gpus or None),
        ("cpus-per-task", config.cpus),
        ("mem", config.memory),
        ("time", config.minutes),
        ("partition", config.partition),
        ("account", config.account),
        ("constraint", config.constraint),
        ("qos", config.qos),
        ("array", f"0-{len(config.seeds) - 1}" if config.seeds else None),
        ("chdir", job.folder),
        ("output", f"{str(job.logs).replace('%', '%%')}/{number}.out"),
        ("open-mode", "append"),
        ("signal", f"B:USR1@{config.notice_seconds}"),
    ]
    lines = [f"#SBATCH --{name}={_directive(value)}" for name, value in asked if value is not None]
    return [*lines, "#SBATCH --requeue", *(f"#SBATCH --{word}" for word in config.extra)]


def _surroundings(config: SlurmJobConfig) -> list[str]:
    if config.environment is None:
        return []
    lines = config.environment.rstrip("\n")
    if os.path.isfile(lines):  # which Path.is_file does not say of many lines: it raises for so long a name
        lines = f"source {_quote(os.path.abspath(lines))}"
    return [lines, ""]


def _names(job: SlurmJob, number: str) -> list[str]:
    seeds = job.config.seeds
    lines = [f"job={number}", "restart=${SLURM_RESTART_COUNT:-0}", f"logs={_quote(job.logs)}"]
    if not seeds:
        return [*lines, f"run={_quote(job.out)}"]
    lines += [f"seeds=({' '.join(map(str, seeds))})", "seed=${seeds[$SLURM_ARRAY_TASK_ID]}"]
    return [*lines, f"run={_quote(job.out)}/seed-$seed", 'mkdir -p "$run"']


_JUDGING = """\
# What becomes of the job is decided by what the run leaves in exit.json, and by what Slurm says of the job."""

_STOPPING = """\
asked=--no-asked
ask() {
    asked=--asked
    touch "$run/stop"
    # A run that only begins takes the file for an old one: ask again until it has ended.
    while sleep 5 && kill -0 "${training:-$$}"; do touch "$run/stop"; done >/dev/null 2>&1 &
}
# USR1 comes before the time limit; with TERM Slurm ends the job, and a kill follows.
trap ask USR1
trap 'ask; judge terminated' TERM

judge begins || exit"""

_ENDING = """\
training=$!
# Signals interrupt the waiting.
while wait "$training"; code=$?; kill -0 "$training" 2>/dev/null; do :; done
judge ended "$asked" --code "$code"
"""


def _meeting(job: SlurmJob) -> list[str]:
    """How the launchers find each other: at the address by which Slurm reaches the first node."""
    lines = []
    if job.config.nodes > 1:
        lines = [
            'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            "address=$(scontrol show node \"$first\" --oneliner | sed 's/.* NodeAddr=\\([^ ]*\\) .*/\\1/')",
        ]
    if job.config.processes > 1:
        lines.append("port=$((20000 + SLURM_JOB_ID % 10000))")
        # Each process holds a connection to every other one for each of its groups.
        lines.append('ulimit -n "$(ulimit -Hn)"')
    return [
        *lines,
        'echo "job $job, start $((restart + 1)) on $SLURM_JOB_NODELIST, logs $logs/$job-$restart-*.out"',
        "",
    ]


def _training(job: SlurmJob) -> list[str]:
    """The launchers, one on each node, in the background."""
    config = job.config
    srun = f"srun --nodes={config.nodes} --ntasks-per-node=1 --kill-on-bad-exit=1"
    if config.cpus is not None:
        srun += f" --cpus-per-task={config.cpus}"  # since Slurm 22.05 steps no longer take it from the job
    lines = [srun + ' --output="$logs/$job-$restart-%n.out"', *_container(job)]
    lines += [*_launcher(config), _quote(*job.words())]
    if config.seeds:
        lines.append('--out "$run" --seed "$seed"')
    return [" \\\n    ".join(lines) + " &"]


def _launcher(config: SlurmJobConfig) -> list[str]:
    """accelerate, as it starts the processes of one node."""
    python = config.python or (sys.executable if config.container is None else "python")
    environment = "ACCELERATE_USE_CPU=true " if config.gpus == 0 else ""
    known = f"--num_machines {config.nodes} --num_processes {config.processes}"
    lines = [f"{known} --mixed_precision no --dynamo_backend no"]
    if config.processes == 1:
        lines[0] += " --cpu" if config.gpus == 0 else ""
    else:
        lines[0] += " --multi_gpu"
        where = '--main_process_ip "$address" ' if config.nodes > 1 else ""
        lines += [f'--rdzv_backend static {where}--main_process_port "$port"']
    launch = f'{environment}exec {_quote(python)} -m accelerate.commands.launch --machine_rank "$SLURM_NODEID"'
    # Every line of a process comes with its rank before it, and once more in a file of its own.
    if config.processes > 1:
        launch += ' --tee 3 --log_dir "$0-$SLURM_NODEID"'
    launch = _quote(f'{launch} "$@"')
    return [f'bash -c {launch} "$logs/$job-$restart"', *lines]


def _container(job: SlurmJob) -> list[str]:
    """What stands before the launcher where it runs in a container."""
    config = job.config
    if config.container is None:
        return []
    data = job.command.option("--data")
    local = [job.folder / data] if data is not None and "://" not in data else []
    folders = [job.folder, _HERE.parent, job.out, *local, *map(Path, config.mounts)]
    seen = list(dict.fromkeys(os.path.abspath(folder) for folder in folders))
    if config.container.endswith(".sif") or config.container.startswith("docker://"):
        bind = ",".join(seen)
        return [f"apptainer exec --nv --bind {_quote(bind)} --pwd {_quote(job.folder)} {_quote(config.container)}"]
    mounts = ",".join(f"{folder}:{folder}" for folder in seen)
    image = f"--container-image={_quote(config.container)} --container-mounts={_quote(mounts)}"
    return [f"{image} --container-workdir={_quote(job.folder)}"]


def _quote(*words: object) -> str:
    return shlex.join(map(str, words))


def _directive(value: object) -> str:
    """A value after #SBATCH, where quotes are double ones."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(letter in text for letter in " \"'\\#") else text


def _without(words: list[str], option: str) -> list[str]:
    kept, skip = [], False
    for word in words:
        if not skip and word != option and not word.startswith(f"{option}="):
            kept.append(word)
        skip = word == option
    return kept
