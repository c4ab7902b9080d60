from typing import Any

import pytest

from launch.slurm_queue import JobState
from launch.verdict import Verdict, judge, judge_terminated

RUNS = JobState(is_running=True, restarts=2)
DONE = {"status": "done", "step": 45}
SAVED = {"status": "preempted", "step": 20}
BROKEN = {"status": "failed", "cause": "error", "error": "--data D: no such folder\nmore"}
LOST = {"status": "failed", "cause": "lost", "error": "rank 1 (host n2, pid 7) has ended or stopped"}


def verdict(word: dict[str, Any] | None, job: JobState = RUNS, *, asked: bool = False, code: int = 0) -> Verdict:
    return judge(word, job, 2, asked=asked, code=code)


def ending(**why: bool) -> JobState:
    return JobState(is_running=False, restarts=2, **why)


@pytest.mark.parametrize("word", [None, DONE, SAVED, BROKEN, LOST])
def test_what_slurm_queues_again_by_itself_is_not_queued_a_second_time(word: dict[str, Any] | None) -> None:
    for is_running in (True, False):
        job = JobState(is_running=is_running, restarts=3, is_preempted=True)
        assert verdict(word, job).kind == "left"
        assert judge_terminated(job, 2) is None


def test_the_run_s_own_word_decides() -> None:
    assert verdict(DONE) == Verdict("done", "the run is done")
    assert verdict(DONE, ending(is_out_of_time=True)).kind == "done"
    assert verdict(BROKEN, code=1) == Verdict("failed", "the run has failed: --data D: no such folder")
    assert verdict(BROKEN | {"cause": None}, code=1).kind == "failed"
    assert verdict(SAVED, asked=True) == Verdict("requeue", "the run was asked to stop, and has saved step 20")
    why = "a part of the run was lost: rank 1 (host n2, pid 7) has ended or stopped"
    assert verdict(LOST, code=1) == Verdict("requeue", why)


def test_a_run_that_someone_asked_to_stop_stays_ended() -> None:
    assert verdict(SAVED) == Verdict("stopped", "someone asked the run to stop; it has saved step 20")
    # Launchers that were killed by a signal tell that nobody used the file.
    assert verdict(SAVED, code=143).kind == "requeue"
    in_grace = JobState(is_running=True, restarts=2, is_preempted=True)
    assert verdict(SAVED, in_grace) == Verdict("requeue", "the run is preempted, and has saved step 20")


@pytest.mark.parametrize("word", [None, SAVED, LOST])
def test_a_cancelled_job_stays_cancelled(word: dict[str, Any] | None) -> None:
    assert verdict(word, ending(), asked=True, code=143) == Verdict("stopped", "the job was cancelled")
    assert judge_terminated(ending(), 2) is None


@pytest.mark.parametrize("word", [None, SAVED, LOST])
def test_a_job_that_slurm_only_ends_is_queued_again(word: dict[str, Any] | None) -> None:
    assert "--notice-seconds" in verdict(word, ending(is_out_of_time=True), asked=True, code=143).why
    for job in (ending(is_out_of_time=True), ending(is_preempted=True)):
        assert verdict(word, job, asked=True, code=143).kind == "requeue"
        assert judge_terminated(job, 2) == verdict(word, job, asked=True, code=143)


def test_without_a_word() -> None:
    assert verdict(None, code=137) == Verdict("requeue", "the run was ended without a word (exit code 137 of srun)")
    assert verdict(None, code=127) == Verdict("failed", "the launcher was not found: nothing was trained")
    assert verdict(None, code=126).why == "the launcher cannot be executed: nothing was trained"


def test_a_signal_to_a_running_job_decides_nothing() -> None:
    assert judge_terminated(RUNS, 2) is None
