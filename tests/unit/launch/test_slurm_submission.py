import stat
from pathlib import Path

import pytest

from launch import slurm_submission
from launch.batch_script import SlurmJob
from launch.slurm_config import SlurmJobConfig
from launch.slurm_queue import Queued, SlurmError
from launch.slurm_submission import check_job, hand_in, submitted, tasks
from launch.training_command import TrainingCommand

TRAIN = ("pretrain/mae.py", "digits", "--data", "D", "--out", "R")


def job(folder: Path, *more: str, words: tuple[str, ...] = TRAIN, **options: object) -> SlurmJob:
    return SlurmJob(SlurmJobConfig(**{"cpus": 16, **options}), TrainingCommand((*words, *more)), folder)  # pyright: ignore


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What check_fit is asked, which has tests of its own; it warns of one thing."""
    asked: list[tuple[object, ...]] = []

    def check_fit(command: TrainingCommand, *numbers: int) -> list[str]:
        asked.append((command.words, *numbers))
        return ["warning: of the world"]

    monkeypatch.setattr(slurm_submission, "check_fit", check_fit)
    return asked


def test_a_job_that_will_do(tmp_path: Path, fits: list[tuple[object, ...]]) -> None:
    assumed = f"assumed: every node finds {tmp_path}, {tmp_path}/R, the data and the interpreter under these paths"
    assert check_job(job(tmp_path, nodes=2, gpus=8)) == ["warning: of the world", assumed]
    _, single, _ = check_job(job(tmp_path, nodes=4, gpus=0, cpus=None))
    assert single == "warning: without --cpus some clusters give a node's processes and loaders a single core"
    check_job(job(tmp_path, seeds=(3, 4)))
    assert fits == [(TRAIN, 2, 8), (TRAIN, 4, 1), ((*TRAIN, "--seed", "3"), 1, 1)]


def test_jobs_that_would_end_at_once(tmp_path: Path, fits: list[tuple[object, ...]]) -> None:
    with pytest.raises(ValueError, match=r"^--seeds gives each run its own --seed: drop the one after `--`$"):
        check_job(job(tmp_path, "--seed", "3", seeds=(0, 1)))
    with pytest.raises(ValueError, match=r"^--environment env.sh: no such file; "):
        check_job(job(tmp_path, environment="env.sh"))
    assert fits == []


def test_a_script_without_seeds_says_so_itself(tmp_path: Path) -> None:
    words = ("finetune/report.py", "--out", "R")
    with pytest.raises(ValueError, match=r"finetune/report.py: unknown option --seed"):
        check_job(job(tmp_path, words=words, seeds=(0, 1)))


def test_sharding_has_arrays_of_its_own(tmp_path: Path) -> None:
    words = ("data_pipeline/shard.py", "--source", "digits", "--out", "D")
    with pytest.raises(ValueError, match=r"--engine slurm --slurm.jobs 64$"):
        check_job(job(tmp_path, words=words))


def test_handing_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue: dict[str, Queued] = {}
    monkeypatch.setattr(slurm_submission.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(slurm_submission, "submit", lambda script: "7")
    monkeypatch.setattr(slurm_submission, "queued", lambda number: queue)
    assert submitted(tmp_path / "R") is None
    assert hand_in(job(tmp_path), "#!/bin/bash\n") == "7"
    kept = tmp_path / "R/slurm/7.sh"
    assert kept.read_text() == "#!/bin/bash\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert submitted(tmp_path / "R") == "7"
    assert tasks(tmp_path / "R", "7") == {"7": tmp_path / "R"}
    queue["7"] = Queued("PENDING", "Priority", "")
    with pytest.raises(
        ValueError, match=r"R: job 7 is in the queue for it \(PENDING\); .*--follow-run R, .*scancel 7$"
    ):
        hand_in(job(tmp_path), "")
    queue.clear()
    hand_in(job(tmp_path, seeds=(3, 5)), "")
    assert tasks(tmp_path / "R", "7") == {"7_0": tmp_path / "R/seed-3", "7_1": tmp_path / "R/seed-5"}


def test_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_submission.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"^sbatch not found: give the command on a login node .*--dry-run"):
        hand_in(job(tmp_path), "")
    assert list(tmp_path.iterdir()) == []


def test_what_slurm_refuses_leaves_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(script: str) -> str:
        raise SlurmError("sbatch --parsable: sbatch: error: invalid partition specified: nope")

    monkeypatch.setattr(slurm_submission.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(slurm_submission, "submit", refuse)
    with pytest.raises(ValueError, match=r"invalid partition specified: nope$"):
        hand_in(job(tmp_path), "")
    assert submitted(tmp_path / "R") is None
