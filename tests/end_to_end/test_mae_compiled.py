"""A run with --compile: the losses of one without, from one graph, evaluations on the way included."""

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

# As few kinds of layers as there can be: each takes g++ seconds.
SMALL = ("--encoder.depth", 1, "--evaluate-epochs", 0.5, "--epochs", 1, "--tracker", "none", "--workers", 0)


@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler makes C++ of graphs, and there is no g++")
def test_the_same_losses_from_one_graph(runs: "Runs", digits: Path, tmp_path: Path) -> None:
    runs.finish(digits, tmp_path / "plain", *SMALL)
    run = runs.train(digits, tmp_path / "compiled", *SMALL, "--compile", cold=True)
    compiled = runs.ended(run, tmp_path / "compiled")
    print(re.search(r"compiled .*", compiled.out))
    assert re.search(r"^compiled 1 graph in \d+ s$", compiled.out, re.MULTILINE)
    assert "torch.compile: no graph was made again after the first step" in compiled.out
    expected, found = runs.losses(tmp_path / "plain"), runs.losses(tmp_path / "compiled")
    assert list(found) == list(expected) == list(range(1, 24))
    worst = max(expected, key=lambda step: abs(found[step] - expected[step]))
    print(f"the losses differ by at most {abs(found[worst] - expected[worst]):.1e}, after step {worst}")
    assert abs(found[worst] - expected[worst]) <= 1e-5
    assert found != expected, "expected another order of sums: was it compiled?"
    evaluated = [line["step"] for line in runs.metrics(tmp_path / "compiled") if "knn_top1" in line]
    assert evaluated == [12, 23]
