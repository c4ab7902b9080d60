"""Train on a Slurm cluster: the job starts again after preemption, at its time limit and when a node is lost.

python launch/slurm.py --nodes 2 --gpus 8 --cpus 96 -- pretrain/mae.py RECIPE --data D --out R

Each start goes on with what the run folder R holds, until the run is done or has failed by itself. R/slurm has the
batch script and a log of each node and process. `touch R/stop` saves and ends the job; so does `scancel`, within half
a minute. To follow it again: python launch/slurm.py --follow-run R
"""

import shlex
import sys
from pathlib import Path
from typing import NoReturn

from launch.settings import parse_options
from launch.slurm_config import SlurmJobConfig
from launch.training_command import TrainingCommand, split_command


def main() -> None:
    """Print the batch script and submit it, or follow a job that is there."""
    assert __doc__ is not None
    options, words = split_command(sys.argv[1:])
    config = parse_options(__doc__, SlurmJobConfig, options)
    if config.follow_run is not None and words:
        _refuse(f"--follow-run {config.follow_run} submits nothing: drop what comes after `--`")
    try:
        code = _submit(config, words) if config.follow_run is None else _follow(Path(config.follow_run))
    except (ValueError, OSError) as error:
        _refuse(str(error))
    sys.exit(code)


def _submit(config: SlurmJobConfig, words: tuple[str, ...]) -> int:
    from launch.batch_script import SlurmJob, batch_script
    from launch.slurm_submission import check_job, hand_in

    job = SlurmJob(config, TrainingCommand(_within_sherd(words)), Path.cwd())
    notes = check_job(job)
    script = batch_script(job)
    print(script, end="", flush=True)
    for note in notes:
        print(note, file=sys.stderr, flush=True)
    if config.dry_run:
        return 0
    number = hand_in(job, script)
    print(f"submitted job {number}: {job.logs / number}.sh", flush=True)
    return _follow(Path(job.command.out)) if config.follow else 0


def _follow(out: Path) -> int:
    from launch.following import Follower
    from launch.slurm_submission import submitted, tasks

    number = submitted(out)
    if number is None:
        raise ValueError(
            f"--follow-run {out}: no job was submitted for it, as {out}/slurm tells; give the --out of one"
        )
    runs = tasks(out, number)
    try:
        return Follower(number, runs, out / "slurm", lambda text: print(text, flush=True)).follow()
    except KeyboardInterrupt:
        again = shlex.join(["python", sys.argv[0], "--follow-run", str(out)])
        stops = " ".join(shlex.quote(str(run / "stop")) for run in runs.values())
        print(f"\njob {number} goes on. Follow it again: {again}\nSave and end it: touch {stops}", flush=True)
        return 130


def _within_sherd(words: tuple[str, ...]) -> tuple[str, ...]:
    """The script as sherd's folder names it, wherever the command is given."""
    root = Path(__file__).resolve().parents[1]
    script = Path(words[0]).resolve() if words else root
    return (script.relative_to(root).as_posix(), *words[1:]) if words and script.is_relative_to(root) else words


def _refuse(message: str) -> NoReturn:
    print(f"{sys.argv[0]}: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
