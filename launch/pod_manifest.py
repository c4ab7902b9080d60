"""What a pod of a job on Kubernetes is: the command it runs, what it is given, and when it counts as dead."""

from typing import Any

from launch.jobset_config import JobSetConfig, pairs
from launch.training_command import TrainingCommand

CONTAINER = "node"
"""Kubeflow asks for this name of the container that trains."""

_PORT = 29500
# A pod may wait for others that find no node yet: not a failure of the run, and `kubectl get pods` shows it.
_MEETING_SECONDS = 86_400
_PROBE_PERIOD_SECONDS = 60
# A store that is away stops heartbeats as well, and comes back. A dead world of several pods ends by itself before.
_PROBE_FAILURES = 30


def pod_words(job: JobSetConfig, command: TrainingCommand) -> list[str]:
    """What the container of every pod runs; Kubernetes puts its number in the place of $(JOB_COMPLETION_INDEX)."""
    launcher = ["accelerate", "launch", "--num_machines", str(job.nodes)]
    launcher += ["--num_processes", str(job.nodes * job.pod_processes), "--mixed_precision", "no"]
    launcher += ["--dynamo_backend", "no"]
    if job.nodes * job.pod_processes > 1:
        launcher.append("--multi_gpu")
    if job.nodes > 1:
        launcher += ["--machine_rank", "$(JOB_COMPLETION_INDEX)", "--rdzv_backend", "static"]
        launcher += ["--rdzv_conf", f"timeout={_MEETING_SECONDS}"]
        launcher += ["--main_process_ip", job.first_pod, "--main_process_port", str(_PORT)]
    out, *script = (_literal(word) for word in (command.out, *command.words))
    return ["python", "launch/pod.py", "run", "--out", out, "--", *launcher, *script]


def container(job: JobSetConfig, command: TrainingCommand) -> dict[str, Any]:
    """The container, whole."""
    return {
        "name": CONTAINER,
        "image": job.image,
        "command": pod_words(job, command),
        **_given(env=_environment(job), envFrom=[{"secretRef": {"name": job.secret}}] if job.secret else []),
        **_given(resources=resources(job)),
        # No readiness and no start-up probe: nobody calls a pod, and until the run begins nothing can be said of it.
        "livenessProbe": {
            "exec": {"command": ["python", "launch/pod.py", "probe", "--out", _literal(command.out)]},
            "periodSeconds": _PROBE_PERIOD_SECONDS,
            "timeoutSeconds": _PROBE_PERIOD_SECONDS,
            "failureThreshold": _PROBE_FAILURES,
        },
        "volumeMounts": [{"name": name, "mountPath": path} for name, path, _ in _volumes(job)],
    }


def pod_spec(job: JobSetConfig, container: dict[str, Any]) -> dict[str, Any]:
    """The pod around a container: where it may run, as whom, with which volumes, and how long it has to save."""
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": job.user,
            "runAsGroup": job.user,
            "fsGroup": job.user,
            # Else every start walks through all files of both claims.
            "fsGroupChangePolicy": "OnRootMismatch",
        },
        **_given(
            serviceAccountName=job.service_account,
            priorityClassName=job.priority_class,
            nodeSelector=pairs("node_selector", job.node_selector),
            tolerations=[{"key": key, "operator": "Exists"} for key in job.tolerate],
        ),
        "containers": [container],
        "volumes": [{"name": name, **source} for name, _, source in _volumes(job)],
    }


def resources(job: JobSetConfig) -> dict[str, Any]:
    """Requests and limits; of what nothing was said there is nothing."""
    memory = _given(memory=job.memory)
    gpus = {job.gpu_resource: job.gpus} if job.gpus else {}
    # No limit of cores: the kernel would stop a loader for the rest of each tenth of a second.
    requests = {**_given(cpu=None if job.cpus is None else f"{job.cpus:g}"), **memory}
    return _given(requests=requests, limits={**memory, **gpus})


def _environment(job: JobSetConfig) -> list[dict[str, str]]:
    given = pairs("environment", job.environment)
    if job.gpus == 0:
        # Without it accelerate takes --multi_gpu at its word.
        given = {"ACCELERATE_USE_CPU": "true", **given}
    return [{"name": name, "value": _literal(value)} for name, value in given.items()]


def _volumes(job: JobSetConfig) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, path in the pod, and source."""
    found: list[tuple[str, str, dict[str, Any]]] = [
        ("shared-memory", "/dev/shm", {"emptyDir": {"medium": "Memory", "sizeLimit": job.shared_memory}}),
        ("runs", job.runs_path, {"persistentVolumeClaim": {"claimName": job.runs_claim}}),
    ]
    if job.data_claim is not None:
        found.append(("data", job.data_path, {"persistentVolumeClaim": {"claimName": job.data_claim}}))
    return found


def _given(**fields: Any) -> dict[str, Any]:
    """Those that are not None or empty."""
    return {name: value for name, value in fields.items() if value is not None and value not in ([], {})}


def _literal(word: str) -> str:
    """Kubernetes takes $(NAME) for a variable, and $$ for a dollar."""
    return word.replace("$", "$$")
