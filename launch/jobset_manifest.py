"""A training command as a JobSet: one Job of as many pods as nodes, all of which start again together.

What starts it again (the exit codes are those of launch/pod_run.py):
- a pod that Kubernetes takes away (preemption, drain, lost node), or that ends with AGAIN: without being counted;
- any other end but success: at most `max_restarts` times.
"""

from typing import Any

from launch.jobset_config import JobSetConfig, pairs
from launch.pod_manifest import CONTAINER, container, pod_spec
from launch.pod_run import AGAIN
from launch.training_command import TrainingCommand

REPLICATED_JOB = "node"
"""Part of the pods' host names, in both kinds of job; see `JobSetConfig.first_pod`."""


def jobset(job: JobSetConfig, command: TrainingCommand) -> dict[str, Any]:
    """The manifest of kind JobSet, version jobset.x-k8s.io/v1alpha2."""
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata(job, job.name),
        "spec": jobset_spec(job, container(job, command), {}),
    }


def metadata(job: JobSetConfig, name: str) -> dict[str, Any]:
    """Of a top-level object of this job."""
    return {"name": name, "namespace": job.namespace, "labels": {**_labels(job), **pairs("labels", job.labels)}}


def jobset_spec(job: JobSetConfig, container: dict[str, Any], job_labels: dict[str, str]) -> dict[str, Any]:
    """The set, of pods with this container; `job_labels` are further ones of the Job in it."""
    return {
        "failurePolicy": {
            "maxRestarts": job.max_restarts,
            "rules": [
                {
                    "name": "goes_on",
                    "action": "RestartJobSetAndIgnoreMaxRestarts",
                    "onJobFailureReasons": ["PodFailurePolicy"],
                }
            ],
        },
        "network": {"enableDNSHostnames": True, "subdomain": job.name},
        "replicatedJobs": [
            {
                "name": REPLICATED_JOB,
                "replicas": 1,
                "template": {
                    "metadata": {"labels": {**_labels(job), **job_labels}},
                    "spec": _job_spec(job, container),
                },
            }
        ],
    }


def _job_spec(job: JobSetConfig, container: dict[str, Any]) -> dict[str, Any]:
    return {
        "completionMode": "Indexed",
        "completions": job.nodes,
        "parallelism": job.nodes,
        # A world that has lost a pod cannot take in another: all end, and the set starts anew.
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [AGAIN]},
                },
            ]
        },
        "template": {"metadata": {"labels": _labels(job)}, "spec": pod_spec(job, container)},
    }


def _labels(job: JobSetConfig) -> dict[str, str]:
    return {"app.kubernetes.io/name": "sherd", "app.kubernetes.io/instance": job.name}
