"""`--help` answers before anything heavy is imported."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs


@pytest.mark.parametrize(
    "words",
    [
        ("data_pipeline/shard.py",),
        ("data_pipeline/survey.py",),
        ("data_pipeline/survey.py", "preview"),
        ("data_pipeline/survey.py", "verify"),
        ("data_pipeline/survey.py", "explain"),
        ("data_pipeline/survey.py", "audit"),
        ("pretrain/mae.py",),
        ("pretrain/mae.py", "digits"),
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
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        finished = runs.Child(runs.python(runs.ROOT / words[0], *words[1:], "--help"), tmp_path / "help").wait()
        seconds.append(time.perf_counter() - began)
        finished.expect(0)
    assert ("--data" if words[-1] in ("verify", "explain") else "--out") in finished.out
    assert ("shuffle-quality" in finished.out) == (words == ("data_pipeline/survey.py",))
    assert finished.err == ""
    assert min(seconds) < 0.5
