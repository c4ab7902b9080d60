"""The options of `slurm.py` and `job_ending.py`: frozen, and free of heavy imports: `--help` answers at once."""

from dataclasses import dataclass
from typing import Literal

# What the batch script asks for itself, or what would break how it ends and starts again.
_OWN = (
    "nodes ntasks ntasks-per-node gpus gpus-per-node gres cpus-per-task mem time partition account constraint qos "
    "job-name array signal requeue no-requeue output error open-mode chdir wrap parsable"
)


@dataclass(frozen=True)
class SlurmJobConfig:
    """How a training run is asked of Slurm, and how often it may start again.

    Raises:
        ValueError: a number outside its range, or options that contradict each other.
    """

    nodes: int = 1
    """Machines, of which each runs one launcher; the number does not change while the run lasts."""
    gpus: int = 1
    """GPUs of each node, with a training process each; 0: one process a node, on its CPUs."""
    minutes: int = 1440
    """Time limit of one start; a run that needs more saves before, and goes on in the next."""
    notice_seconds: int = 300
    """So long before the time limit the run is asked to save: longer than an evaluation, a step and a checkpoint take.
    Slurm may ask up to a minute early."""
    cpus: int | None = None
    """Cores of each node, shared by its processes and their loaders; None: the cluster's default, often one."""
    memory: str | None = None
    """Of each node, such as 500G; 0: all of it. None: the cluster's default."""
    partition: str | None = None
    """None: the cluster's own."""
    account: str | None = None
    """Who pays, where the cluster asks."""
    constraint: str | None = None
    """Features that the nodes must have, such as a100."""
    qos: str | None = None
    """Quality of service, where the cluster has several."""
    extra: tuple[str, ...] = ()
    """More options of sbatch, without their dashes: --extra exclusive mail-type=END reservation=R."""
    container: str | None = None
    """Image to train in: a .sif file or docker:// by Apptainer, anything else by the plug-in pyxis (enroot)."""
    mounts: tuple[str, ...] = ()
    """Folders that the container sees beside this one, sherd's, --data and --out."""
    environment: str | None = None
    """A shell file that the batch script reads first, or its lines themselves: 'module load cuda/13'."""
    python: str | None = None
    """Interpreter of the training processes. None: the one that runs this, or in a container its `python`."""
    seeds: tuple[int, ...] = ()
    """A job array with one run for each seed, in the folders seed-N of --out."""
    most_vain_starts: int = 3
    """After so many starts in a row that saved no checkpoint the job gives up."""
    name: str | None = None
    """Of the job; None: sherd- and the name of the run folder."""
    follow: bool = True
    """Tell how the run gets on until it ends, and end with its exit code; Ctrl-C leaves it running."""
    dry_run: bool = False
    """Print the batch script, and submit nothing."""
    follow_run: str | None = None
    """Submit nothing: follow what was submitted for this run folder."""

    def __post_init__(self) -> None:
        for option, least in (
            ("nodes", 1),
            ("gpus", 0),
            ("minutes", 1),
            ("notice_seconds", 1),
            ("most_vain_starts", 1),
        ):
            if getattr(self, option) < least:
                raise ValueError(f"{_dashed(option)} {getattr(self, option)}: expected at least {least}")
        if self.cpus is not None and self.cpus < self.processes_of_node:
            raise ValueError(
                f"--cpus {self.cpus}: expected at least {self.processes_of_node}, one for each process of a node"
            )
        # Slurm looks at the clock once a minute, and asks then for what falls into the minute to come.
        if self.notice_seconds + 60 >= self.minutes * 60:
            raise ValueError(
                f"--minutes {self.minutes}: the run is asked to save {self.notice_seconds} s before they are over, or "
                "up to a minute earlier, so at its very start; give more --minutes or fewer --notice-seconds"
            )
        if len(set(self.seeds)) < len(self.seeds) or any(seed < 0 for seed in self.seeds):
            raise ValueError(f"--seeds {' '.join(map(str, self.seeds))}: expected different numbers from 0 on")
        for word in self.extra:
            option = word.partition("=")[0]
            if word.startswith("-") or option in _OWN.split():
                advice = "leave out its dashes" if word.startswith("-") else "the batch script sets it; see --help"
                raise ValueError(f"--extra {word}: {advice}")
        if self.mounts and self.container is None:
            raise ValueError(f"--mounts {' '.join(self.mounts)}: there is no --container to mount them in")
        if self.follow_run is not None and self.dry_run:
            raise ValueError("--follow-run submits nothing, and so has no --dry-run: drop one of them")

    @property
    def processes_of_node(self) -> int:
        """Training processes of each node."""
        return max(1, self.gpus)

    @property
    def processes(self) -> int:
        """Training processes of all nodes."""
        return self.nodes * self.processes_of_node


@dataclass(frozen=True)
class JobEndingConfig:
    """What the batch script tells of a start of its job."""

    moment: Literal["begins", "terminated", "ended"]
    """Before the training processes start, when Slurm ends the job, and after they have ended."""
    run: str
    """The run folder."""
    record: str
    """File that remembers the starts of this job."""
    job: str
    """Number of the job as Slurm's commands know it; of a task of an array 7_2."""
    restart: int
    """Which start this is, from 0."""
    most_vain_starts: int
    """See `SlurmJobConfig`."""
    asked: bool = False
    """Whether the batch script has asked the run to stop."""
    code: int = 0
    """With `ended`: the exit code of srun."""


def _dashed(option: str) -> str:
    return f"--{option.replace('_', '-')}"
