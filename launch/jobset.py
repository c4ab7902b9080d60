"""Print a training command as a job for Kubernetes: a JobSet, or a TrainJob of Kubeflow, that goes on after preemption.

python launch/jobset.py --name N --image I --gpus 8 --nodes 4 --runs-claim C --data-claim C
-- pretrain/mae.py RECIPE --data /data/D --out /runs/R | kubectl apply -f -
"""

import sys
from typing import NoReturn

from launch.jobset_config import JobSetConfig
from launch.settings import parse_options
from launch.training_command import TrainingCommand, split_command
from launch.world_fit import check_fit


def main() -> None:
    """Print the manifest on stdout, and on stderr what to do with it."""
    assert __doc__ is not None
    options, words = split_command(sys.argv[1:])
    if not words and not {"-h", "--help"} & set(options):
        _refuse("expected a command after `--`, such as: -- pretrain/mae.py RECIPE --data /data/D --out /runs/R")
    job = parse_options(__doc__, JobSetConfig, options)
    try:
        command = TrainingCommand(words)
        job.check(command)
        notes = check_fit(command, job.nodes, job.pod_processes)
    except ValueError as error:
        _refuse(str(error))
    print(_text(job, command), end="")
    print("\n".join([*notes, *_advice(job)]), file=sys.stderr)


def _text(job: JobSetConfig, command: TrainingCommand) -> str:
    import yaml

    from launch.jobset_manifest import jobset
    from launch.train_job_manifest import train_job

    documents = [jobset(job, command)] if job.kind == "jobset" else train_job(job, command)
    # Long words stay whole: folded ones are hard to read, and to copy.
    return yaml.safe_dump_all(documents, sort_keys=False, width=10_000, allow_unicode=True)


def _advice(job: JobSetConfig) -> list[str]:
    kubectl = f"kubectl --namespace {job.namespace}"
    pods = f"--selector app.kubernetes.io/instance={job.name}"
    kinds = [f"jobset/{job.name}"]
    if job.kind == "trainjob":
        kinds = [f"trainjob/{job.name}", f"trainingruntime/{job.name}"]
    return [
        "start:             pipe this into `kubectl apply -f -`; it goes on with what the run folder holds",
        f"its pods:          {kubectl} get pods {pods}",
        f"what the run says: {kubectl} logs --follow --tail=-1 {pods},batch.kubernetes.io/job-completion-index=0",
        f"save and stop:     {kubectl} delete {' '.join(kinds)}",
    ]


def _refuse(message: str) -> NoReturn:
    print(f"{sys.argv[0]}: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
