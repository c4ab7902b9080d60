import os
from pathlib import Path

from launch.run_folder import RunFolder
from launch.start_record import JobRecord, read_record
from launch.verdict import Verdict

AGAIN = Verdict("requeue", "the run was asked to stop")
LEFT = Verdict("left", "Slurm has queued the job again by itself")


def save(run: Path, step: int, within: str = "") -> None:
    folder = run / within / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest").write_text(f"step-{step:08d}\n")


def start(record: JobRecord, restart: int, verdict: Verdict, step: int | None = None) -> JobRecord:
    begun = record.begin(restart, "n[1-2]")
    if step is not None:
        save(Path(record.run), step)
    return begun.judged(restart, verdict)


def test_a_word_of_an_earlier_start_does_not_count(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    empty = JobRecord("7", str(tmp_path))
    assert empty.begin(0, "n1").word(0) is None
    run.write_exit("failed", error="of the start before")
    os.utime(run.exit, ns=(1, 1))  # clocks of file systems may tick slowly
    record = empty.begin(1, "n1")
    assert record.word(1) is None
    run.write_exit("done", step=45)
    word = record.word(1)
    assert word is not None
    assert word["status"] == "done"
    assert empty.word(0) is None  # of a start that was never told of nothing is known
    run.exit.unlink()
    assert record.word(1) is None


def test_starts_in_vain_are_those_in_a_row_that_were_to_go_on_and_saved_nothing(tmp_path: Path) -> None:
    record = JobRecord("7", str(tmp_path))
    counts = []
    for restart, (verdict, step) in enumerate(
        [(AGAIN, None), (LEFT, None), (AGAIN, None), (LEFT, 7), (AGAIN, None), (AGAIN, 14), (AGAIN, 14)]
    ):
        record = start(record, restart, verdict, step)
        counts.append(record.vain_starts)
    assert counts == [1, 1, 2, 0, 1, 0, 1]


def test_a_teacher_s_checkpoints_are_progress(tmp_path: Path) -> None:
    record = JobRecord("7", str(tmp_path)).begin(0, "n1")
    save(tmp_path, 3, within="teacher")
    assert record.judged(0, AGAIN).vain_starts == 0


def test_a_start_that_slurm_broke_off_is_known_by_the_next(tmp_path: Path) -> None:
    record = JobRecord("7", str(tmp_path)).begin(0, "n1").begin(1, "n2").judged(1, AGAIN)
    assert [start.verdict for start in record.starts] == ["left", "requeue"]
    assert record.starts[0].why == "Slurm broke the start before off"
    assert record.vain_starts == 1
    assert record.begin(1, "n2").starts[-1].verdict is None  # told of twice, it counts once
    assert len(record.begin(1, "n2").starts) == 2


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "slurm/7.json"
    assert read_record(path) is None
    path.parent.mkdir()
    save(tmp_path, 3)
    record = start(JobRecord("7", str(tmp_path)), 0, AGAIN, 9).begin(1, "n1")
    record.write(path)
    assert read_record(path) == record
    assert record.starts[1].checkpoints_before == ("checkpoints/latest: step-00000009",)
