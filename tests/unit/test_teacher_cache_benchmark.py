"""The benchmark of a teacher's cache: its commands, and the arithmetic of its table."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from teacher_cache import Options
from teacher_cache_runs import CONTENDERS, Setting, _measured
from teacher_cache_tables import summary, table

SETTING = Setting("D", "T", "digits-distill", "soft", kept=3, epochs=2, seed=1, precision="fp32", workers=1, threads=1)


def found(rate: float, *losses: float, seconds: float | None = None, size: int | None = None) -> dict:
    steps = {2 * (place + 1): loss for place, loss in enumerate(losses)}
    return {"images_per_second": rate, "losses": steps, "filling_seconds": seconds, "bytes": size}


ROUNDS = [
    {"none": found(100, 2, 1), "all": found(150, 2.25, 1, seconds=7.5, size=4000), "kept": found(160, 2, 0.5, size=70)},
    {"none": found(80, 2, 1), "all": found(160, 2, 1.125, size=4000), "kept": found(180, 2, 1, size=70)},
]


def test_runs_differ_in_nothing_but_the_cache():
    none, every, kept = (SETTING.words(name, Path("R"), Path("C")) for name in CONTENDERS)
    cache = ["--cache-teacher.views", "2", "--cache-teacher.folder", "C"]
    assert every == [*none, *cache]
    assert kept == [*every, "--cache-teacher.classes", "3"]
    assert none[none.index("--epochs") + 1] == "2", "as many as there are views: none is shown twice"


def test_a_summary_has_ratios_within_rounds_and_the_greatest_difference_of_losses():
    every = summary(ROUNDS)["all"]
    assert every == {
        "images_per_second": 155,
        "speed_up": {"median": 1.75, "least": 1.5, "greatest": 2.0},
        "filling_seconds": 7.5,
        "bytes": 4000,
        "loss_difference": 0.25,
        "loss": 2,
    }
    assert summary(ROUNDS)["kept"]["loss_difference"] == 0.5
    assert summary(ROUNDS)["kept"]["loss"] == 1


def test_the_table_says_what_was_measured():
    title, heading, none, every, kept = table(SETTING, ROUNDS).splitlines()
    assert title.startswith("digits-distill, soft distillation, 2 epochs of 2 views, fp32, seed 1; 2 rounds, medians")
    assert title.endswith("losses of 2 logged steps")
    assert heading.split("  ")[-1] == "losses differ by at most"
    assert none.split() == ["without", "a", "cache", "90", "1.00", "(1.00", "to", "1.00)", "-", "-", "-"]
    assert every.split()[2:] == ["155", "1.75", "(1.50", "to", "2.00)", "7.5", "4,000", "0.25", "of", "2"]
    assert kept.split()[:3] == ["3", "largest", "170"]


def test_what_a_run_left_is_read(tmp_path: Path):
    lines = [
        {"step": 2, "epoch": 0.9, "loss": 3.0, "images_per_second": 1.0},
        {"step": 3, "epoch": 1.4, "top1": 0.5},
        {"step": 4, "epoch": 1.9, "loss": 2.0, "images_per_second": 7.0},
        {"step": 5, "epoch": 2.4, "loss": 1.0, "images_per_second": 9.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "logits.npy").write_bytes(b"1234")
    (tmp_path / "cache" / "cache.json").write_text("{}")
    said = "x\ncomputed the teacher's logits of 2 views of 1,437 images in 1,012.5 s\ny\n"
    assert _measured(tmp_path, tmp_path / "cache", said, 2) == {
        "images_per_second": 8.0,  # without the first line, which holds what happens once
        "losses": {2: 3.0, 4: 2.0},
        "filling_seconds": 1012.5,
        "bytes": 4,
    }
    without = _measured(tmp_path, tmp_path / "absent", "", 2)
    assert (without["filling_seconds"], without["bytes"]) == (None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "^--rounds is 0, expected at least 1$"),
        ({"data": "D"}, "^--data D: expected --teacher as well, a classifier of its classes$"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Options(**options)
