"""The options of `jobset.py`: frozen, and free of heavy imports, so that `--help` answers at once."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from launch.training_command import TrainingCommand

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # RFC 1035: the pods' names begin with it, and so their host names
_OBJECT = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|k|M|G|T)?")
_BYTES = {None: 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_LONGEST_NAME = 63


@dataclass(frozen=True)
class JobSetConfig:
    """How a training command runs on Kubernetes: what each of its pods is given, and how often it starts again.

    Raises:
        ValueError: a name or an amount that Kubernetes would refuse, or that cannot be meant.
    """

    name: str
    """Of the job; its pods are NAME-node-0-0-..., NAME-node-0-1-... and so on."""
    image: str
    """Made by launch/Dockerfile, where the cluster can pull it."""
    gpus: int
    """GPUs of each node; 0: train on its CPUs."""
    runs_claim: str
    """PersistentVolumeClaim that holds the run folders; for several nodes one that all mount (ReadWriteMany)."""
    kind: Literal["jobset", "trainjob"] = "jobset"
    """A JobSet (jobset.x-k8s.io/v1alpha2), or Kubeflow's TrainJob with its runtime (trainer.kubeflow.org/v1alpha1)."""
    nodes: int = 1
    """Pods; the cluster puts each where what it asks for is free."""
    processes: int | None = None
    """Training processes of each pod; None: one for each GPU, or one without GPUs."""
    namespace: str = "default"
    """Where the claims and the job are."""
    data_claim: str | None = None
    """PersistentVolumeClaim with datasets; None where they are in a store, or beside the runs."""
    runs_path: str = "/runs"
    """Where pods find the runs claim; --out of the command lies below."""
    data_path: str = "/data"
    """Where pods find the data claim."""
    shared_memory: str = "16Gi"
    """Size of /dev/shm, where loaders keep their batches; it counts as memory of the pod."""
    memory: str | None = None
    """Memory of each pod, /dev/shm included: asked for, and its limit. None: no limit."""
    cpus: float | None = None
    """CPU cores that each pod asks for; it may use idle ones beside."""
    gpu_resource: str = "nvidia.com/gpu"
    """What the cluster calls its GPUs."""
    node_selector: tuple[str, ...] = ()
    """KEY=VALUE: labels of the nodes that may be taken."""
    tolerate: tuple[str, ...] = ()
    """Keys of taints that do not keep the pods away."""
    labels: tuple[str, ...] = ()
    """KEY=VALUE: labels of the job, such as kueue.x-k8s.io/queue-name=QUEUE."""
    environment: tuple[str, ...] = ()
    """NAME=VALUE: environment variables, visible to everyone who may read the job. For credentials: --secret."""
    secret: str | None = None
    """Secret whose keys become environment variables: credentials of stores and trackers."""
    service_account: str | None = None
    """ServiceAccount of the pods; None: the namespace's."""
    priority_class: str | None = None
    """PriorityClass of the pods; None: the cluster's."""
    user: int = 1000
    """User and group of the processes; those of the image are 1000."""
    max_restarts: int = 3
    """Starts after failures that had saved no checkpoint since the start before; preemptions do not count."""
    grace_seconds: int = 600
    """From the request to stop to the kill: longer than an evaluation, a step and a checkpoint take."""

    def __post_init__(self) -> None:
        self._check_name()
        objects = ("namespace", "runs_claim", "data_claim", "secret", "service_account", "priority_class")
        for option in objects:
            value = getattr(self, option)
            if value is not None and _OBJECT.fullmatch(value) is None:
                raise ValueError(f"{_dashed(option)} {value}: expected lower-case letters, digits, dashes and dots")
        for option, least in (("nodes", 1), ("gpus", 0), ("max_restarts", 0), ("grace_seconds", 1), ("user", 1)):
            if getattr(self, option) < least:
                raise ValueError(f"{_dashed(option)} {getattr(self, option)}: expected at least {least}")
        self._check_processes()
        for option in ("node_selector", "labels", "environment"):
            pairs(option, getattr(self, option))
        self._check_amounts()
        for option in ("runs_path", "data_path"):
            if not PurePosixPath(getattr(self, option)).is_absolute():
                raise ValueError(f"{_dashed(option)} {getattr(self, option)}: expected a path that begins with /")

    @property
    def pod_processes(self) -> int:
        """Training processes of each pod."""
        return self.processes or max(1, self.gpus)

    @property
    def first_pod(self) -> str:
        """The host name by which all pods find the first, also after it was started again."""
        return f"{self.name}-node-0-0.{self.name}"

    def check(self, command: TrainingCommand) -> None:
        """Whether the pods will find what the command names.

        Raises:
            ValueError: --out is not on the runs claim, or --data on no claim.
        """
        if not _is_below(command.out, self.runs_path):
            raise ValueError(
                f"--out {command.out}: is not on the runs claim, and would be lost with the pod; "
                f"give a folder below {self.runs_path}, such as --out {self.runs_path}/{self.name}"
            )
        data = command.option("--data")
        if data is None or "://" in data:
            return
        mounted = [self.runs_path] + ([self.data_path] if self.data_claim is not None else [])
        if not any(_is_below(data, path) for path in mounted):
            places = [f"a folder below {' or '.join(mounted)}", "the URL of a store"]
            if self.data_claim is None:
                places.insert(1, "with --data-claim the claim that holds it")
            raise ValueError(f"--data {data}: no pod has it; give {', or '.join(places)}")

    def _check_name(self) -> None:
        last_pod = f"{self.name}-node-0-{self.nodes - 1}-xxxxx"
        if _LABEL.fullmatch(self.name) is None:
            raise ValueError(
                f"--name {self.name}: expected lower-case letters, digits and dashes, first a letter: it is a host name"
            )
        if len(last_pod) > _LONGEST_NAME:
            longest = _LONGEST_NAME - len(last_pod) + len(self.name)
            raise ValueError(
                f"--name {self.name}: has {len(self.name)} characters, of which the names of pods leave {longest}"
            )

    def _check_processes(self) -> None:
        if self.processes is None:
            return
        if self.processes < 1 or (self.gpus > 0 and self.processes != self.gpus):
            expected = f"as many as --gpus {self.gpus}, or nothing" if self.gpus else "at least 1"
            raise ValueError(f"--processes {self.processes}: expected {expected}")

    def _check_amounts(self) -> None:
        if self.cpus is not None and self.cpus <= 0:
            raise ValueError(f"--cpus {self.cpus:g}: expected more than 0")
        shared = _bytes("shared_memory", self.shared_memory)
        if self.memory is not None and _bytes("memory", self.memory) <= shared:
            raise ValueError(
                f"--memory {self.memory}: leaves nothing beside --shared-memory {self.shared_memory}, which counts as "
                "memory of the pod; give more memory, or less of it shared"
            )


def pairs(option: str, words: tuple[str, ...]) -> dict[str, str]:
    """`("a=b", ...)` of an option as a mapping. Raises ValueError."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{_dashed(option)} {word}: expected KEY=VALUE")
        found[key] = value
    return found


def _bytes(option: str, amount: str) -> float:
    match = _QUANTITY.fullmatch(amount)
    if match is None or float(match[1]) == 0:
        raise ValueError(f"{_dashed(option)} {amount}: expected an amount of bytes such as 16Gi or 500G")
    return float(match[1]) * _BYTES[match[2]]


def _is_below(path: str, folder: str) -> bool:
    parts, above = PurePosixPath(path).parts, PurePosixPath(folder).parts
    return ".." not in parts and len(parts) > len(above) and parts[: len(above)] == above


def _dashed(option: str) -> str:
    return f"--{option.replace('_', '-')}"
