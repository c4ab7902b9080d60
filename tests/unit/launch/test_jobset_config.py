from typing import Any

import pytest

from launch.jobset_config import JobSetConfig, pairs
from launch.training_command import TrainingCommand

REQUIRED = {"name": "mae", "image": "sherd:1", "gpus": 8, "runs_claim": "runs"}


def command(data: str, out: str) -> TrainingCommand:
    return TrainingCommand(("pretrain/mae.py", "digits", "--data", data, "--out", out))


def test_there_is_a_process_for_each_gpu_and_one_without():
    assert JobSetConfig(**REQUIRED).pod_processes == 8
    assert JobSetConfig(**{**REQUIRED, "gpus": 0}).pod_processes == 1
    assert JobSetConfig(**{**REQUIRED, "gpus": 0}, processes=3).pod_processes == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "Mae"}, r"--name Mae: expected lower-case letters, digits and dashes, first a letter"),
        ({"name": "1st"}, "--name 1st: expected lower-case"),
        ({"name": "m" * 49}, r"--name m+: has 49 characters, of which the names of pods leave 48"),
        ({"name": "m" * 48, "nodes": 11}, "has 48 characters, of which the names of pods leave 47"),
        ({"runs_claim": "my_runs"}, r"--runs-claim my_runs: expected lower-case letters, digits, dashes and dots"),
        ({"namespace": ""}, "--namespace : expected lower-case"),
        ({"nodes": 0}, "--nodes 0: expected at least 1"),
        ({"gpus": -1}, "--gpus -1: expected at least 0"),
        ({"user": 0}, "--user 0: expected at least 1"),
        ({"max_restarts": -1}, "--max-restarts -1: expected at least 0"),
        ({"grace_seconds": 0}, "--grace-seconds 0: expected at least 1"),
        ({"processes": 4}, "--processes 4: expected as many as --gpus 8, or nothing"),
        ({"gpus": 0, "processes": 0}, "--processes 0: expected at least 1"),
        ({"cpus": 0.0}, "--cpus 0: expected more than 0"),
        ({"shared_memory": "16 GB"}, "--shared-memory 16 GB: expected an amount of bytes such as 16Gi or 500G"),
        ({"shared_memory": "0Gi"}, "--shared-memory 0Gi: expected an amount"),
        ({"memory": "16Gi"}, r"--memory 16Gi: leaves nothing beside --shared-memory 16Gi, which counts as memory"),
        ({"memory": "17G"}, r"--memory 17G: leaves nothing beside --shared-memory 16Gi"),
        ({"node_selector": ("gpu",)}, "--node-selector gpu: expected KEY=VALUE"),
        ({"environment": ("=x",)}, "--environment =x: expected KEY=VALUE"),
        ({"runs_path": "runs"}, "--runs-path runs: expected a path that begins with /"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused_here(changed: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        JobSetConfig(**{**REQUIRED, **changed})


def test_names_and_amounts_at_the_limit_pass():
    JobSetConfig(**{**REQUIRED, "name": "m" * 48, "nodes": 10}, memory="18G", shared_memory="16Gi")


def test_a_value_may_hold_what_separates_it_from_its_key():
    assert pairs("environment", ("A=b=c", "D=")) == {"A": "b=c", "D": ""}


@pytest.mark.parametrize("out", ["runs/x", "/elsewhere/x", "/runs", "/runs/../x", "s3://bucket/x"])
def test_a_run_folder_that_would_be_lost_with_the_pod_is_refused(out: str):
    with pytest.raises(ValueError, match=rf"--out {out}: is not on the runs claim, .* such as --out /runs/mae"):
        JobSetConfig(**REQUIRED).check(command("s3://bucket/d", out))


def test_data_that_no_pod_has_is_refused():
    with pytest.raises(
        ValueError, match=r"give a folder below /runs, or with --data-claim the claim that holds it, or"
    ):
        JobSetConfig(**REQUIRED).check(command("/data/d", "/runs/x"))
    with pytest.raises(ValueError, match=r"--data d: no pod has it; give a folder below /runs or /data, or the URL"):
        JobSetConfig(**REQUIRED, data_claim="data").check(command("d", "/runs/x"))
    JobSetConfig(**REQUIRED, data_claim="data").check(command("/data/d", "/runs/x"))
    JobSetConfig(**REQUIRED).check(command("/runs/datasets/d", "/runs/x"))
    JobSetConfig(**REQUIRED).check(command("s3://bucket/d", "/runs/x"))
