import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.jobset import main
from launch.jobset_config import JobSetConfig
from launch.jobset_manifest import jobset
from launch.train_job_manifest import train_job
from launch.training_command import TrainingCommand

HERE = Path(__file__).parent
OPTIONS = "--name mae --image sherd:1 --gpus 8 --runs-claim runs --data-claim data"
COMMAND = "-- pretrain/mae.py digits --data /data/d --out /runs/r"
MAE = TrainingCommand(tuple(COMMAND.split()[1:]))
LARGE = (
    "--name mae-l --image registry.example/sherd:1 --nodes 4 --gpus 8 --namespace vision --runs-claim runs "
    "--data-claim datasets --shared-memory 64Gi --cpus 96 --memory 900Gi --node-selector gpu=h100 zone=a "
    "--tolerate nvidia.com/gpu --labels kueue.x-k8s.io/queue-name=vision --secret store-keys --service-account trainer "
    "--priority-class low --max-restarts 5 --grace-seconds 900 "
    "-- pretrain/mae.py vit-l16-in1k --data /data/in1k --out /runs/mae-l --max-world 512"
)
SMALL = (
    "--kind trainjob --name try --image sherd:1 --gpus 0 --processes 2 --nodes 2 --runs-claim work "
    "--runs-path /work --environment GREETING=$(NAME)$ "
    "-- pretrain/mae.py digits --data /work/digits --out /work/try$1"
)


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], tuple[str, str]]:
    """What the program prints on stdout and on stderr, given its command line."""

    def run(line: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["launch/jobset.py", *line.split()])
        main()
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


def test_the_text_for_four_nodes_of_eight_gpus(printed: Callable[[str], tuple[str, str]]):
    assert printed(LARGE)[0] == (HERE / "jobset_of_four_nodes.yaml").read_text()


def test_the_text_for_a_train_job_on_cpus(printed: Callable[[str], tuple[str, str]]):
    assert printed(SMALL)[0] == (HERE / "train_job_on_cpus.yaml").read_text()


@pytest.mark.parametrize("file", ["jobset_of_four_nodes.yaml", "train_job_on_cpus.yaml"])
def test_the_schemas_know_every_field(file: str):
    models = pytest.importorskip("kubeflow_trainer_api.models")
    schemas = {
        "JobSet": models.JobsetV1alpha2JobSet,
        "TrainingRuntime": models.TrainerV1alpha1TrainingRuntime,
        "TrainJob": models.TrainerV1alpha1TrainJob,
    }
    for document in yaml.safe_load_all((HERE / file).read_text()):
        # Unknown fields are no error there: they are left out.
        assert schemas[document["kind"]].from_dict(document).to_dict() == document


def test_both_kinds_make_the_same_pods():
    config = JobSetConfig("mae", "sherd:1", 8, "runs", nodes=4, secret="keys", memory="900Gi", tolerate=("gpu",))
    alone, (runtime, job) = jobset(config, MAE), train_job(config, MAE)
    spec = runtime["spec"]["template"]["spec"]
    (container,) = pod(spec)["containers"]
    container["command"] = job["spec"]["trainer"]["command"]
    container["resources"] = job["spec"]["trainer"]["resourcesPerNode"]
    (replicated,) = spec["replicatedJobs"]
    assert replicated["template"]["metadata"]["labels"].pop("trainer.kubeflow.org/trainjob-ancestor-step") == "trainer"
    assert spec == alone["spec"]
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert job["spec"]["trainer"]["numNodes"] == runtime["spec"]["mlPolicy"]["numNodes"] == 4


def test_one_process_needs_no_rendezvous():
    (container,) = pod(jobset(JobSetConfig("mae", "sherd:1", 1, "runs"), MAE)["spec"])["containers"]
    launcher = container["command"][container["command"].index("--") + 1 :]
    assert launcher[:6] == ["accelerate", "launch", "--num_machines", "1", "--num_processes", "1"]
    assert not {"--multi_gpu", "--machine_rank", "--main_process_ip"} & set(launcher)


def test_what_to_do_next_is_said_beside_the_manifest(printed: Callable[[str], tuple[str, str]]):
    advice = printed(f"{OPTIONS} --namespace vision --nodes 4 {COMMAND}")[1]
    assert "warning: 32 processes, but --max-world 16" in advice
    assert "`kubectl apply -f -`" in advice
    assert "kubectl --namespace vision logs --follow" in advice
    assert "delete jobset/mae\n" in advice
    assert "delete trainjob/mae trainingruntime/mae\n" in printed(f"{OPTIONS} --kind trainjob {COMMAND}")[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "expected a command after `--`, such as: -- pretrain/mae.py RECIPE --data /data/D --out /runs/R"),
        (f"{OPTIONS} {COMMAND.removeprefix('-- ')}", "expected a command after `--`"),
        (f"{OPTIONS} -- pretrain/mea.py --out /runs/r", "did you mean pretrain/mae.py?"),
        (f"{OPTIONS} -- pretrain/mae.py digits --data /data/d --out r", "--out r: is not on the runs claim"),
        (f"{OPTIONS} --nodes 3 {COMMAND}", "--batch-size 64 is not divisible by 3 x 8 processes"),
        (f"{OPTIONS} --node 2 {COMMAND}", "unknown option --node; did you mean --nodes?"),
        (f"{OPTIONS} --name Mae {COMMAND}", "--name Mae: expected lower-case letters"),
        (COMMAND, "--runs-claim"),
    ],
)
def test_mistakes_are_told_on_stderr_alone(
    printed: Callable[[str], tuple[str, str]], capsys: pytest.CaptureFixture[str], line: str, message: str
):
    with pytest.raises(SystemExit) as stop:
        printed(line)
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.out == ""
    assert message in captured.err


def pod(jobset_spec: dict[str, Any]) -> dict[str, Any]:
    (replicated,) = jobset_spec["replicatedJobs"]
    return replicated["template"]["spec"]["template"]["spec"]
