"""A training command as a TrainJob of Kubeflow, with the runtime that it names.

A TrainJob alone cannot say what a pod mounts nor what starts it again: that is the runtime's part.
"""

from typing import Any

from launch.jobset_config import JobSetConfig
from launch.jobset_manifest import jobset_spec, metadata
from launch.pod_manifest import container, resources
from launch.training_command import TrainingCommand

_API = "trainer.kubeflow.org"


def train_job(job: JobSetConfig, command: TrainingCommand) -> list[dict[str, Any]]:
    """Two manifests, of kinds TrainingRuntime and TrainJob, version trainer.kubeflow.org/v1alpha1."""
    node = container(job, command)
    words = node.pop("command")
    node.pop("resources", None)
    runtime = {
        "apiVersion": f"{_API}/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": metadata(job, job.name),
        "spec": {
            # No `torch` policy: its variables would tell accelerate a second time, and otherwise, who is where.
            "mlPolicy": {"numNodes": job.nodes},
            "template": {"spec": jobset_spec(job, node, {f"{_API}/trainjob-ancestor-step": "trainer"})},
        },
    }
    asked = resources(job)
    trainer = {
        "image": job.image,
        "command": words,
        "numNodes": job.nodes,
        **({"resourcesPerNode": asked} if asked else {}),
    }
    own = {
        "apiVersion": f"{_API}/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata(job, job.name),
        "spec": {"runtimeRef": {"apiGroup": _API, "kind": "TrainingRuntime", "name": job.name}, "trainer": trainer},
    }
    return [runtime, own]
