"""The commands of a pod as the manifest has them, in a stand-in for the container: its variables, its programs."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.jobset_config import JobSetConfig
from launch.pod_manifest import container
from launch.processes import this_process
from launch.training_command import TrainingCommand

ROOT = Path(__file__).parents[3]
ACCELERATE = """#!/bin/sh
# Notes its words, and does what the test wants of it.
printf '%s\\n' "$@" > words
[ -z "$SAVES" ] || mkdir -p "$OUT/checkpoints/$SAVES"
[ -z "$SAYS" ] || { mkdir -p "$OUT/.lock"; printf '%s' "$SAYS" > "$OUT/exit.json"; }
[ -z "$KILLED" ] || kill -9 $$
[ -z "$WAITS" ] || { touch ready; sleep 60; }
exit ${CODE:-0}
"""


@dataclasses.dataclass
class Container:
    """What a pod's commands find in it."""

    folder: Path
    job: JobSetConfig
    command: TrainingCommand

    @property
    def out(self) -> Path:
        return Path(self.command.out)

    def start(self, words: list[str], pod: int = 0, **variables: str) -> "subprocess.Popen[str]":
        given = {"JOB_COMPLETION_INDEX": str(pod), "OUT": str(self.out)}
        path = f"{self.folder}:{Path(sys.executable).parent}:/usr/bin:/bin"
        return subprocess.Popen(
            [expanded(word, given).replace("launch/pod.py", str(ROOT / "launch/pod.py")) for word in words],
            env={"PATH": path, **given, **variables},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, pod: int = 0, **variables: str) -> tuple[int, str]:
        """Exit code and output of the training command."""
        process = self.start(container(self.job, self.command)["command"], pod, **variables)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def probe(self) -> int:
        words = container(self.job, self.command)["livenessProbe"]["exec"]["command"]
        process = self.start([*words, "--watch-seconds", "0.2"])
        process.communicate(timeout=60)
        return process.returncode


def expanded(word: str, variables: dict[str, str]) -> str:
    """As the kubelet does it."""
    return re.sub(
        r"\$\$|\$\((\w+)\)", lambda found: "$" if found[0] == "$$" else variables.get(found[1], found[0]), word
    )


@pytest.fixture
def pod(tmp_path: Path) -> Container:
    accelerate = tmp_path / "accelerate"
    accelerate.write_text(ACCELERATE)
    accelerate.chmod(0o755)
    runs = tmp_path / "runs"
    job = JobSetConfig("mae", "sherd:1", 2, "runs", nodes=3, runs_path=str(runs))
    return Container(
        tmp_path, job, TrainingCommand(("pretrain/mae.py", "digits", "--data", "s3://b/$(X)", "--out", f"{runs}/r$1"))
    )


def word(status: str, **details: object) -> str:
    return json.dumps({"status": status, **details})


def test_the_launcher_gets_the_words_that_were_meant(pod: Container):
    code, said = pod.run(pod=2, SAYS=word("done", step=9))
    assert (code, said) == (0, "pod 2: the run is done; exit code 0\n")
    words = (pod.folder / "words").read_text().splitlines()
    assert words[words.index("--num_machines") + 1] == "3"
    assert words[words.index("--num_processes") + 1] == "6"
    assert words[words.index("--machine_rank") + 1] == "2"
    assert words[words.index("--main_process_ip") + 1] == "mae-node-0-0.mae"
    assert words[-6:] == ["pretrain/mae.py", "digits", "--data", "s3://b/$(X)", "--out", f"{pod.folder}/runs/r$1"]


def test_a_run_stopped_by_hand_ends_the_job(pod: Container):
    code, said = pod.run(SAYS=word("preempted", step=5), SAVES="step-00000005")
    assert code == 0
    assert "was asked to stop, not by way of this pod; the next start goes on from checkpoints/step-00000005" in said


def test_a_preempted_run_starts_again(pod: Container):
    process = pod.start(container(pod.job, pod.command)["command"], SAYS=word("preempted", step=5), WAITS="1")
    deadline = time.monotonic() + 30
    while not (pod.folder / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "asked to leave: the run saves and stops" in said


def test_a_failed_run_fails_and_goes_on_once_it_has_got_further(pod: Container):
    says = word("failed", error="the disk is full", cause="error")
    code, said = pod.run(SAYS=says, CODE="1")
    assert code == 1
    assert "the run has failed (the disk is full); it had saved no checkpoint since its start; exit code 1" in said
    assert pod.run(SAYS=says + " ", CODE="1", SAVES="step-00000005")[0] == 75
    assert pod.run(SAYS=says, CODE="1", SAVES="step-00000005")[0] == 1


def test_a_killed_run_fails_and_goes_on_once_it_has_got_further(pod: Container):
    assert pod.run(KILLED="1", SAVES="step-00000005")[0] == 75
    code, said = pod.run(KILLED="1")
    assert code == 1
    assert "the launcher ended with -9, and exit.json does not say why" in said


def test_a_missing_launcher_is_told(pod: Container):
    (pod.folder / "accelerate").unlink()
    words = ["python", "launch/pod.py", "run", "--out", str(pod.out), "--", "nothing-of-that-name"]
    process = pod.start(words)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert said == "pod.py run: nothing-of-that-name cannot be started: No such file or directory\n"


def test_the_probe_fails_where_the_heart_of_this_pod_has_stopped(pod: Container):
    assert pod.probe() == 0
    claim = pod.out / ".lock/000001.json"
    claim.parent.mkdir(parents=True)
    record = {"holder": dataclasses.asdict(this_process()), "token": "", "released": False}
    claim.write_text(json.dumps(record))
    os.utime(claim, (0, 0))
    assert pod.probe() == 1
