import json
from pathlib import Path

import pytest

from launch import following
from launch.following import Follower, progress_line, state_line
from launch.run_folder import RunFolder
from launch.slurm_queue import Queued, SlurmError
from launch.start_record import JobRecord
from launch.verdict import Verdict

RUNS = Queued("RUNNING", "None", "n[1-2]")
WAITS = Queued("PENDING", "BeginTime", "")
AGAIN = Verdict("requeue", "the job was preempted")


def write_metrics(run: Path, *rows: dict[str, float], tail: str = "") -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)


def row(step: int, **more: float) -> dict[str, float]:
    return {"step": step, "epoch": step * 64 / 1437, "loss": 1.25, "images_per_second": 640.0} | more


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    write_metrics(run.path, row(20))
    run.config.write_text('{"recipe": "digits", "epochs": 2.0, "batch_size": 64}')
    return run


def test_progress(run: RunFolder) -> None:
    assert progress_line(run) == "step 20 of 45, loss 1.25, 640 images/s, 0:00:02 left"
    # An evaluation is no step, and a line may be half written.
    write_metrics(run.path, row(44), row(45), {"step": 45, "knn": 90.0}, tail='{"step": 46, "loss"')
    assert progress_line(run) == "step 45 of 45, loss 1.25, 640 images/s"


def test_progress_of_a_long_file(run: RunFolder) -> None:
    write_metrics(run.path, *(row(step) for step in range(1, 2000)))
    assert progress_line(run).startswith("step 1,999 of 45, loss 1.25")


def test_progress_without_what_it_is_made_of(run: RunFolder) -> None:
    run.config.unlink()
    assert progress_line(run) == "step 20, loss 1.25, 640 images/s"
    run.metrics.unlink()
    assert progress_line(run) == ""


def test_states() -> None:
    first = JobRecord("7", "R").begin(0, "n[1-2]")
    again = first.judged(0, AGAIN)
    assert state_line(WAITS, None) == "pending (BeginTime)"
    assert state_line(RUNS, None) == "running on n[1-2], start 1"
    assert state_line(RUNS, first) == "running on n[1-2], start 1"
    assert state_line(WAITS, again) == "pending (BeginTime), after: the job was preempted"
    second = "running on n[1-2], start 2, after: the job was preempted"
    assert state_line(RUNS, again) == state_line(RUNS, again.begin(1, "n[1-2]")) == second


class Played:
    """A queue that shows one state after another, each with what has happened until then; then nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *scenes: object) -> None:
        self._scenes = list(scenes)
        monkeypatch.setattr(following, "queued", self.queued)

    def queued(self, job: str) -> dict[str, Queued]:
        scene = self._scenes.pop(0) if self._scenes else {}
        if isinstance(scene, SlurmError):
            raise scene
        states, happens = scene if isinstance(scene, tuple) else (scene, lambda: None)
        happens()
        return states


def test_a_job_from_the_queue_to_its_end(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    logs, record = run.path / "slurm", JobRecord("7", str(run.path)).begin(0, "n[1-2]")
    logs.mkdir()

    def preempted() -> None:
        record.judged(0, AGAIN).write(logs / "7.json")

    def done() -> None:
        write_metrics(run.path, row(45))
        again = record.judged(0, AGAIN).begin(1, "n[1-2]")
        again.judged(1, Verdict("done", "the run is done")).write(logs / "7.json")

    away = SlurmError("squeue: Unable to contact slurm controller")
    Played(monkeypatch, {"7": WAITS}, {"7": RUNS}, {"7": RUNS}, away, away, ({"7": WAITS}, preempted), ({}, done))
    said: list[str] = []
    assert Follower("7", {"7": run.path}, logs, said.append, pause=0.0, every=0.0).follow() == 0
    assert said == [
        "job 7: pending (BeginTime)",
        "job 7: running on n[1-2], start 1",
        "job 7: step 20 of 45, loss 1.25, 640 images/s, 0:00:02 left",
        "squeue: Unable to contact slurm controller; trying on",
        "job 7: pending (BeginTime), after: the job was preempted",
        "job 7: the run is done; step 45 of 45, loss 1.25, 640 images/s",
    ]


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict("failed", "the run has failed: x"), "the run has failed: x; logs: L/7_1-0-*.out and 7_1.out"),
        (Verdict("stopped", "the job was cancelled"), "the job was cancelled"),
        (None, "has ended, cancelled or lost; the same command goes on with R/seed-5"),
    ],
)
def test_the_exit_code_is_that_of_the_worst_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: Verdict | None, said: str
) -> None:
    runs = {"7_0": tmp_path / "seed-3", "7_1": tmp_path / "seed-5"}
    for (task, run), its in zip(runs.items(), (Verdict("done", "the run is done"), verdict), strict=True):
        record = JobRecord(task, str(run)).begin(0, "n1")
        (record if its is None else record.judged(0, its)).write(tmp_path / f"{task}.json")
    Played(monkeypatch, {"7_1": RUNS})
    lines: list[str] = []
    assert Follower("7", runs, tmp_path, lines.append, pause=0.0, every=0.0).follow() == 1
    told = [line.replace(f"{tmp_path}/seed", "R/seed").replace(str(tmp_path), "L") for line in lines]
    assert told[0] == "job 7_0 (seed-3): the run is done"
    assert told[1].startswith("job 7_1 (seed-5): running on n[1-2], start ")
    assert told[2:] == [f"job 7_1 (seed-5): {said}"]
