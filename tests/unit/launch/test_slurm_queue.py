import os
from pathlib import Path

import pytest

from launch.slurm_queue import JobState, Queued, SlurmError, job_state, parse_job_state, queued, requeue, submit

# As Slurm 22.05 prints it, of which some fields are left out.
SHOWN = (
    "JobId=7 JobName=a Reason=x UserId=root(0) Priority=0 Account=(null) JobState=COMPLETING Reason=TimeLimit "
    "Dependency=(null) Requeue=1 Restarts=1 BatchFlag=1 TimeLimit=00:01:00 PreemptEligibleTime=2026-11-26T10:05:06 "
    "PreemptTime=None Command=(null) Comment=Restarts=9\n"
)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that stand for Slurm's: each does what a test writes into it."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def test_what_scontrol_shows_of_a_job() -> None:
    assert parse_job_state("JobId=7 JobState=RUNNING Reason=None Restarts=0 PreemptTime=None") == JobState(True, 0)
    preempted = "JobId=7 JobState=RUNNING Reason=None Restarts=0 PreemptTime=2026-11-26T10:05:23 PreemptEligibleTime=x"
    assert parse_job_state(preempted) == JobState(True, 0, is_preempted=True)
    waits = "JobId=7 JobState=PENDING Reason=BeginTime Restarts=1"  # of one that waits PreemptTime is not shown
    assert parse_job_state(waits) == JobState(False, 1)
    with pytest.raises(SlurmError, match=r"^scontrol show job: expected JobState and Restarts, got: nothing$"):
        parse_job_state("nothing")


def test_a_job_s_name_does_not_pass_for_a_field() -> None:
    assert parse_job_state(SHOWN) == JobState(False, 1, is_out_of_time=True)


def test_the_queue(slurm: Path) -> None:
    program(slurm, "squeue", "echo '7_0|RUNNING|None|n[1-2]'; echo '7_1|PENDING|BeginTime|'")
    assert queued("7") == {"7_0": Queued("RUNNING", "None", "n[1-2]"), "7_1": Queued("PENDING", "BeginTime", "")}
    program(slurm, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert queued("7") == {}
    program(slurm, "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SlurmError, match=r"^squeue --noheader: .* Unable to contact slurm controller$"):
        queued("7")


def test_handing_in_leaves_the_surroundings_behind(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command given in a shell on a node is not about the job of that shell."""
    for name in ("SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SBATCH_PARTITION"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/its.conf")
    program(slurm, "sbatch", "{ env | grep -o '^S[LB][A-Z]*_[A-Z]*'; cat; } > \"$(dirname $0)\"/seen; echo '7;cluster'")
    assert submit("#!/bin/bash\n") == "7"
    assert (slurm / "seen").read_text() == "SLURM_CONF\n#!/bin/bash\n"
    assert os.environ["SLURM_JOB_ID"] == "1"


def test_refusals_are_told(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(slurm, "sbatch", "echo 'sbatch: error: invalid partition specified: nope' >&2; exit 1")
    with pytest.raises(SlurmError, match=r"^sbatch --parsable: sbatch: error: invalid partition specified: nope$"):
        submit("")
    program(slurm, "scontrol", "exit 3")
    with pytest.raises(SlurmError, match=r"^scontrol requeue: exit code 3$"):
        requeue("7")
    monkeypatch.setenv("PATH", str(slurm / "nothing"))
    with pytest.raises(SlurmError, match=r"^scontrol not found; give the command on a login node of the cluster$"):
        job_state("7")
