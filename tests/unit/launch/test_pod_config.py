import pytest

from launch.jobset_config import JobSetConfig
from launch.pod_config import ProbeConfig, RunConfig
from launch.pod_manifest import container
from launch.training_command import TrainingCommand


def test_spans_that_cannot_be_meant_are_refused():
    with pytest.raises(ValueError, match=r"--patience-seconds -1: expected at least 0"):
        RunConfig("/runs/r", patience_seconds=-1)
    with pytest.raises(ValueError, match=r"--watch-seconds 0: expected more than 0"):
        ProbeConfig("/runs/r", watch_seconds=0)


def test_a_probe_has_ended_before_the_next_one_begins():
    job = JobSetConfig("mae", "sherd:1", 1, "runs")
    command = TrainingCommand(("pretrain/mae.py", "digits", "--out", "/runs/r"))
    probe = container(job, command)["livenessProbe"]
    assert ProbeConfig("/runs/r").watch_seconds < min(probe["periodSeconds"], probe["timeoutSeconds"]) - 10
