"""`benchmark.py` on the digits: the table and its runs, taken up again after a kill, and what it refuses."""

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

TINY = ("--labels", 5, "--seeds", 2, "--pretrained-steps", 6, "--scratch-steps", 8, "--scratch-lrs", 0.001, 0.01)


def start(
    runs: "Runs", data: Path, encoder: Path, out: Path, *more: object, log: str = "", cold: bool = False
) -> "Runs.Child":
    options = ("digits", "--data", data, "--init", encoder, "--out", out, *TINY, *more)
    command = runs.python(runs.ROOT / "finetune/benchmark.py", *options)
    return runs.start(command, out.with_name(f"{out.name}-log{log}"), cold=cold)


@pytest.mark.timeout(600)
def test_the_table_and_its_runs(runs: "Runs", digits: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "benchmark"
    killed = start(runs, digits, undisturbed, out)
    killed.wait_until(lambda: len(list(out.glob("*/evaluation.json"))) >= 2)
    killed.send(signal.SIGKILL)
    killed.wait().expect(-9)
    assert killed.is_gone(60), f"processes remain: {killed.members()}"
    assert not (out / "benchmark.json").exists()

    finished = start(runs, digits, undisturbed, out, log="-again", cold=True).wait(300).expect(0)
    assert finished.err == ""
    found = json.loads((out / "benchmark.json").read_text())
    few, everything = found["rows"]
    assert (few["labels"], few["images"], few["seeds"]) == (5, 50, [0, 1])
    assert (everything["labels"], everything["images"], everything["seeds"]) == (None, 1437, [0])
    for row in found["rows"]:
        tried = row["scratch"]["tried"]
        assert row["scratch"]["base_lr"] == float(max(tried, key=tried.__getitem__))
        assert row["scratch"]["top1"][0] == max(tried.values())
        assert len(row["scratch"]["top1"]) == len(row["pretrained"]["top1"]) == len(row["seeds"])
    assert everything["pixels_1nn"] == [pytest.approx(0.956, abs=0.005)]
    for run in out.glob("*-seed*/"):
        assert json.loads((run / "exit.json").read_text())["status"] == "done"
    tuned = json.loads((out / "pretrained-5-seed1/evaluation.json").read_text())
    assert few["pretrained"]["top1"][1] == tuned["top1"]
    scratch = json.loads((out / "scratch-5-lr0.001-seed0/config.json").read_text())
    assert (scratch["init"], scratch["labels"], scratch["encoder"]["width"]) == ("none", 5, 48)
    table = (out / "benchmark.md").read_text()
    assert "| labels a class | images | 1-NN on pixels | from scratch | pre-trained | gain |" in table
    assert table.strip() in finished.out


def test_what_it_refuses(runs: "Runs", digits: Path, undisturbed: Path, tmp_path: Path) -> None:
    refused = start(runs, digits, undisturbed, tmp_path / "b", "--labels", 1000).wait().expect(1)
    assert "benchmark.py: --labels 1000 is above what a class has" in refused.err
    refused = start(runs, digits, tmp_path / "nowhere", tmp_path / "c").wait().expect(1)
    assert f"benchmark.py: --init {tmp_path / 'nowhere'}: expected a run folder" in refused.err
