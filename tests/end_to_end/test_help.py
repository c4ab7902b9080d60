"""`--help` answers before anything heavy is imported."""

import resource
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

LIMIT = 0.5  # seconds


@pytest.mark.parametrize(
    "words",
    [
        ("launch/slurm.py",),
        ("launch/jobset.py",),
        ("launch/pod.py", "run"),
        ("data_pipeline/shard.py",),
        ("data_pipeline/survey.py",),
        ("data_pipeline/survey.py", "preview"),
        ("data_pipeline/survey.py", "verify"),
        ("data_pipeline/survey.py", "explain"),
        ("data_pipeline/survey.py", "audit"),
        ("pretrain/mae.py",),
        ("pretrain/mae.py", "digits"),
        ("pretrain/distill.py",),
        ("pretrain/distill.py", "deit-ti4-cifar10"),
        ("pretrain/distill.py", "digits-features"),
        ("pretrain/doctor.py",),
        ("pretrain/doctor.py", "digits"),
        ("finetune/classify.py",),
        ("finetune/classify.py", "digits"),
        ("finetune/probe.py",),
        ("finetune/probe.py", "digits-lars"),
        ("finetune/benchmark.py",),
        ("finetune/publish.py",),
        ("finetune/report.py",),
        ("finetune/validate.py",),
    ],
)
def test_help_is_instant(runs: "Runs", tmp_path: Path, words: tuple[str, ...]) -> None:
    seconds: list[float] = []
    while not seconds or (seconds[-1] >= LIMIT and len(seconds) < 3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = runs.python(runs.ROOT / words[0], *words[1:], "--help")
        finished = runs.Child(command, tmp_path / "help", cold=True).wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time: what a busy machine makes of it is not the script's.
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        finished.expect(0)
    assert ("--data" if words[-1] in ("verify", "explain") else "--out") in finished.out
    assert ("shuffle-quality" in finished.out) == (words == ("data_pipeline/survey.py",))
    assert finished.err == ""
    assert min(seconds) < LIMIT
