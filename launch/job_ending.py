"""Called by the batch scripts that launch/slurm.py writes: decides at the end of a start whether the job starts again.

python launch/job_ending.py --moment begins|terminated|ended --run R --record FILE --job 7 --restart 0
--most-vain-starts 3 [--asked] [--code 1]
"""

import os
import signal
import sys
from pathlib import Path

from launch.settings import parse_options
from launch.slurm_config import JobEndingConfig
from launch.slurm_queue import JobState, SlurmError, job_state, requeue
from launch.start_record import JobRecord, read_record
from launch.verdict import Verdict, judge, judge_terminated


def main() -> None:
    """Remember that a start begins, or judge how it ended; exit code 1 where the job has failed."""
    # Slurm ends every process of a job that it ends: this one has to decide what becomes of it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert __doc__ is not None
    config = parse_options(__doc__, JobEndingConfig)
    path = Path(config.record)
    record = read_record(path) or JobRecord(config.job, config.run)
    if config.moment == "begins":
        record.begin(config.restart, os.environ.get("SLURM_JOB_NODELIST", "")).write(path)
        return
    verdict = _verdict(config, record)
    if verdict is None:
        return
    verdict = _within_limit(config, record, verdict)
    # Before Slurm hears of it, as it then ends this process as well.
    record.judged(config.restart, verdict).write(path)
    if verdict.kind == "requeue":
        try:
            requeue(config.job)
        except SlurmError as error:
            why = f"{verdict.why}; cannot start again: {error}; submit the same command anew"
            verdict = Verdict("failed", why)
            record.judged(config.restart, verdict).write(path)
    again = "; queued again" if verdict.kind == "requeue" else ""
    print(f"job {config.job}, start {config.restart + 1}: {verdict.why}{again}", flush=True)
    if verdict.kind == "failed":
        sys.exit(1)


def _verdict(config: JobEndingConfig, record: JobRecord) -> Verdict | None:
    """None where there is nothing to be decided, or all has been."""
    last = record.last
    if last is not None and last.restart == config.restart and last.verdict == "requeue":
        return None
    try:
        job = job_state(config.job)
    except SlurmError as error:
        print(f"job {config.job}: {error}", file=sys.stderr, flush=True)
        job = JobState(is_running=True, restarts=config.restart)
    if config.moment == "terminated":
        return judge_terminated(job, config.restart)
    return judge(record.word(config.restart), job, config.restart, asked=config.asked, code=config.code)


def _within_limit(config: JobEndingConfig, record: JobRecord, verdict: Verdict) -> Verdict:
    """The verdict, unless too many starts in a row were in vain."""
    vain = record.judged(config.restart, verdict).vain_starts
    if verdict.kind != "requeue" or vain < config.most_vain_starts:
        return verdict
    return Verdict("failed", f"{verdict.why}; given up: {vain} starts in a row have saved no checkpoint")


if __name__ == "__main__":
    main()
