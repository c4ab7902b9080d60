"""`make demo` as printed: from the digits to a model folder and a report, and pre-training helps."""

import datetime
import json
import subprocess
import time
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs


def test_the_demo(runs: "Runs", tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    demo = subprocess.run(
        ["make", "demo", f"DEMO={tmp_path}"], cwd=runs.ROOT, capture_output=True, text=True, check=False
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    rows = json.loads((tmp_path / "benchmark/benchmark.json").read_text())["rows"]
    with capsys.disabled():
        print(f"\n{datetime.datetime.now():%F %T} make demo in {time.monotonic() - began:.0f} s")
        print((tmp_path / "benchmark/benchmark.md").read_text())
    for row in rows[:2]:
        assert mean(row["pretrained"]["top1"]) > mean(row["scratch"]["top1"]), row
    assert (tmp_path / "model/model.safetensors").is_file()
    assert (tmp_path / "report.html").stat().st_size > 100_000
    assert (tmp_path / "benchmark/benchmark.md").read_text().strip() in demo.stdout
