import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.batch_script import SlurmJob, batch_script
from launch.slurm_config import SlurmJobConfig
from launch.training_command import TrainingCommand

ROOT = Path(__file__).parents[3]

TWO_NODES = """\
#!/bin/bash
#SBATCH --job-name=sherd-r
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=60
#SBATCH --partition=low
#SBATCH --chdir="/home/me/my work"
#SBATCH --output="/home/me/my work/runs/r/slurm/%j.out"
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --exclusive

module load python

job=$SLURM_JOB_ID
restart=${SLURM_RESTART_COUNT:-0}
logs='/home/me/my work/runs/r/slurm'
run='/home/me/my work/runs/r'

# What becomes of the job is decided by what the run leaves in exit.json, and by what Slurm says of the job.
judge() {
    PYTHON ROOT/launch/job_ending.py --moment "$@" \\
        --run "$run" --record "$logs/$job.json" --job "$job" --restart "$restart" \\
        --most-vain-starts 3
}

asked=--no-asked
ask() {
    asked=--asked
    touch "$run/stop"
    # A run that only begins takes the file for an old one: ask again until it has ended.
    while sleep 5 && kill -0 "${training:-$$}"; do touch "$run/stop"; done >/dev/null 2>&1 &
}
# USR1 comes before the time limit; with TERM Slurm ends the job, and a kill follows.
trap ask USR1
trap 'ask; judge terminated' TERM

judge begins || exit
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol show node "$first" --oneliner | sed 's/.* NodeAddr=\\([^ ]*\\) .*/\\1/')
port=$((20000 + SLURM_JOB_ID % 10000))
ulimit -n "$(ulimit -Hn)"
echo "job $job, start $((restart + 1)) on $SLURM_JOB_NODELIST, logs $logs/$job-$restart-*.out"

srun --nodes=2 --ntasks-per-node=1 --kill-on-bad-exit=1 --cpus-per-task=16 --output="$logs/$job-$restart-%n.out" \\
    bash -c 'ACCELERATE_USE_CPU=true exec PYTHON -m accelerate.commands.launch --machine_rank "$SLURM_NODEID" \
--tee 3 --log_dir "$0-$SLURM_NODEID" "$@"' "$logs/$job-$restart" \\
    --num_machines 2 --num_processes 2 --mixed_precision no --dynamo_backend no --multi_gpu \\
    --rdzv_backend static --main_process_ip "$address" --main_process_port "$port" \\
    ROOT/pretrain/mae.py digits --data 'my digits' --out runs/r &
training=$!
# Signals interrupt the waiting.
while wait "$training"; code=$?; kill -0 "$training" 2>/dev/null; do :; done
judge ended "$asked" --code "$code"
"""

TRAIN = ("pretrain/mae.py", "digits", "--data", "my digits", "--out", "runs/r")


def script(config: SlurmJobConfig, words: tuple[str, ...] = TRAIN, folder: Path = Path("/home/me/my work")) -> str:
    """The batch script, without what differs between machines; AssertionError where bash does not read it."""
    text = batch_script(SlurmJob(config, TrainingCommand(words), folder))
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    return text.replace(shlex.quote(sys.executable), "PYTHON").replace(str(ROOT), "ROOT")


def test_two_nodes_without_gpus() -> None:
    lines = SlurmJobConfig(
        nodes=2, gpus=0, cpus=16, minutes=60, partition="low", environment="module load python", extra=("exclusive",)
    )
    assert script(lines) == TWO_NODES


def test_everything_that_can_be_asked_for() -> None:
    config = SlurmJobConfig(gpus=8, memory="0", account="a", constraint="a100|h100", qos="long", name='say "it\'s"')
    asked = script(config)
    requests = ("gpus-per-node=8", "mem=0", "account=a", "constraint=a100|h100", "qos=long")
    assert all(f"\n#SBATCH --{request}\n" in asked for request in requests)
    assert '\n#SBATCH --job-name="say \\"it\'s\\""\n' in asked
    # The launchers of a single node need nobody's address.
    assert "address" not in asked
    assert '    --rdzv_backend static --main_process_port "$port" \\\n' in asked


def test_a_single_process_needs_no_meeting() -> None:
    for gpus, more in ((0, " --cpu"), (1, "")):
        asked = script(SlurmJobConfig(gpus=gpus))
        assert (
            f"    --num_machines 1 --num_processes 1 --mixed_precision no --dynamo_backend no{more} \\\n    R" in asked
        )
        assert "$port" not in asked


def test_seeds_are_an_array_with_a_folder_each() -> None:
    asked = script(SlurmJobConfig(seeds=(0, 7, 12345)), (*TRAIN, "--out=runs/s", "--epochs", "3"))
    assert '\n#SBATCH --array=0-2\n#SBATCH --chdir="/home/me/my work"\n' in asked
    assert 'runs/s/slurm/%A_%a.out"\n' in asked
    # `scontrol requeue` with the number of an array would mean all its tasks.
    assert "\njob=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID\n" in asked
    assert "\nseeds=(0 7 12345)\nseed=${seeds[$SLURM_ARRAY_TASK_ID]}\n" in asked
    assert "\nrun='/home/me/my work/runs/s'/seed-$seed\nmkdir -p \"$run\"\n" in asked
    command = '    ROOT/pretrain/mae.py digits --data \'my digits\' --epochs 3 \\\n    --out "$run" --seed "$seed" &\n'
    assert command in asked


def test_containers() -> None:
    pyxis = script(SlurmJobConfig(container="nvcr.io#nvidia/pytorch", mounts=("/scratch",)))
    seen = ("/home/me/my work", "ROOT", "/home/me/my work/runs/r", "/home/me/my work/my digits", "/scratch")
    mounts = ",".join(f"{folder}:{folder}" for folder in seen)
    assert f"--container-image='nvcr.io#nvidia/pytorch' --container-mounts='{mounts}' --container-workdir='/" in pyxis
    assert "    bash -c 'exec python -m accelerate.commands.launch" in pyxis
    assert "    PYTHON ROOT/launch/job_ending.py" in pyxis  # which speaks to Slurm, and so stays outside
    apptainer = script(SlurmJobConfig(container="sherd.sif", python="/opt/python"), (*TRAIN, "--data", "s3://b/d"))
    bind = ",".join(folder for folder in seen[:3])
    assert f"    apptainer exec --nv --bind '{bind}' --pwd '/home/me/my work' sherd.sif \\\n    bash -c" in apptainer
    assert "exec /opt/python -m accelerate.commands.launch" in apptainer


def test_the_environment_is_a_file_or_the_lines_themselves(tmp_path: Path) -> None:
    file = tmp_path / "my environment.sh"
    file.write_text("module load cuda\n")
    assert f"\nsource '{file}'\n\njob=" in script(SlurmJobConfig(environment=str(file)))
    lines = "module load cuda\n" * 500  # too long for the name of a file
    assert f"\n\n{lines}\njob=" in script(SlurmJobConfig(environment=lines))


SRUN = """
trap '' TERM
: > "$STUB/began"
while [ ! -e "$STUB/end" ]; do [ -e "$RUN/stop" ] && [ -e "$STUB/obeys" ] && break; sleep 0.02; done
[ -e "$STUB/word" ] && cp "$STUB/word" "$RUN/exit.json"
exit $(cat "$STUB/code")
"""
SCONTROL = """
case "$1 $2" in
    "show hostnames") echo n1; echo n2 ;;
    "show node") echo "NodeName=$3 Arch=x86_64 NodeAddr=10.0.0.1 NodeHostName=host" ;;
    "show job") cat "$STUB/job" ;;
    *) echo "$@" >> "$STUB/called" ;;
esac
"""


class Played:
    """A batch script between programs that play Slurm: what each does is in the folder `stub`."""

    def __init__(self, folder: Path) -> None:
        self.run, self.stub = folder / "runs/r", folder / "stub"
        self.run.mkdir(parents=True)
        (self.run / "slurm").mkdir()
        self.stub.mkdir()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (self.stub / name).write_text(f"#!/bin/bash{text}")
            (self.stub / name).chmod(0o755)
        self.put("job", "JobState=RUNNING Reason=None Restarts=0")
        self.put("code", "0")
        job = SlurmJob(SlurmJobConfig(nodes=2, gpus=0), TrainingCommand(TRAIN), folder)
        self.put("script", batch_script(job))
        self.process: subprocess.Popen[str] | None = None

    def put(self, name: str, content: str) -> None:
        (self.stub / name).write_text(content)

    def start(self) -> None:
        """Return when the training processes would run."""
        environment = os.environ | {
            "PATH": f"{self.stub}:{os.environ['PATH']}",
            "STUB": str(self.stub),
            "RUN": str(self.run),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "n[1-2]",
        }
        self.process = subprocess.Popen(
            ["bash", self.stub / "script"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.wait_until((self.stub / "began").exists)

    def wait_until(self, is_reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not is_reached():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, word: dict[str, Any] | None, code: int = 0) -> tuple[int, str]:
        """Let the training processes end; the script's exit code, and what it printed."""
        assert self.process is not None
        if word is not None:
            self.put("word", json.dumps(word))
        self.put("code", str(code))
        self.put("end", "")
        said, _ = self.process.communicate(timeout=60)
        return self.process.returncode, said

    def called(self) -> list[str]:
        """What was asked of Slurm, beside questions."""
        path = self.stub / "called"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def played(tmp_path: Path) -> Played:
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    return Played(tmp_path)


def test_a_run_that_is_done(played: Played) -> None:
    played.start()
    code, said = played.end({"status": "done", "step": 45})
    assert (code, played.called()) == (0, [])
    assert said.splitlines() == [
        f"job 7, start 1 on n[1-2], logs {played.run}/slurm/7-0-*.out",
        "job 7, start 1: the run is done",
    ]


def test_usr1_asks_the_run_to_stop_which_queues_the_job_once(played: Played) -> None:
    played.put("obeys", "")
    played.put("word", json.dumps({"status": "preempted", "step": 20}))
    played.start()
    played.send(signal.SIGUSR1)
    assert played.process is not None
    said, _ = played.process.communicate(timeout=60)
    assert said.splitlines()[-1] == ("job 7, start 1: the run was asked to stop, and has saved step 20; queued again")
    assert (played.process.returncode, played.called()) == (0, ["requeue 7"])


def test_an_error_ends_the_job(played: Played) -> None:
    played.start()
    code, said = played.end({"status": "failed", "cause": "error", "error": "no such folder"}, 1)
    assert (code, played.called()) == (1, [])
    assert said.endswith("job 7, start 1: the run has failed: no such folder\n")


def test_an_old_word_is_no_word(played: Played) -> None:
    (played.run / "exit.json").write_text('{"status": "done", "step": 45}')
    played.start()
    code, said = played.end(None, 137)
    assert (code, played.called()) == (0, ["requeue 7"])
    assert said.endswith("the run was ended without a word (exit code 137 of srun); queued again\n")


def test_a_job_out_of_time_is_queued_before_it_is_killed(played: Played) -> None:
    played.start()
    played.put("job", "JobState=COMPLETING Reason=TimeLimit Restarts=0")
    played.send(signal.SIGTERM)
    played.wait_until(lambda: played.called() == ["requeue 7"])
    assert (played.run / "stop").exists()
    code, said = played.end({"status": "preempted", "step": 20}, 143)
    assert (code, played.called()) == (0, ["requeue 7"])
    assert said.count("queued again") == 1
