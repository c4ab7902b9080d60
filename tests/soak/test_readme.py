"""The README's commands for CIFAR-10 exactly as printed, to their end: some twenty minutes on two cores."""

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import readme as Readme
    from tests.end_to_end import runs as Runs


def test_cifar10_as_printed(runs: "Runs", readme: "Readme", tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not readme.CIFAR10.is_dir():
        pytest.skip(f"{readme.CIFAR10} is not there")
    for words in readme.printed():
        readme.run(runs, words, tmp_path)
    evaluation = json.loads((tmp_path / "runs/cifar10/evaluation.json").read_text())
    with capsys.disabled():
        print(f"\n{datetime.datetime.now():%F %T} README on CIFAR-10: top-1 {evaluation['top1']:.2%} of 10,000")
    assert evaluation["images"] == 10_000
    assert evaluation["top1"] > 0.4
