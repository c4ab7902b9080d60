"""Pre-training on a mixture, killed on the way: as if it had not been, and every sample of either accounted for."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

WEIGHTS = (2, 1)


@pytest.fixture(scope="module")
def other(runs: "Runs", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 500 digits alone, in another order."""
    folder = tmp_path_factory.mktemp("other") / "dataset"
    options = ("--source", "digits", "--out", folder, "--take", 500, "--seed", 1)
    runs.start(runs.python(runs.ROOT / "data_pipeline/shard.py", *options), folder.parent / "log").wait().expect()
    return folder


def test_a_killed_mixture_goes_on(runs: "Runs", digits: Path, other: Path, tmp_path: Path) -> None:
    mixed = ("--also", other, "--weights", *WEIGHTS, "--epochs", 0.7, "--evaluate-epochs", 0)
    runs.train(digits, tmp_path / "undisturbed", *mixed, cold=True).wait().expect()
    words = runs.options(digits, tmp_path / "run", *mixed)
    crashed = runs.start(runs.python(runs.HERE / "crash_at.py", "latest-moved", 2, runs.MAE, *words), tmp_path / "log")
    crashed.wait().expect(-9)
    runs.train(digits, tmp_path / "run", *mixed).wait().expect()
    assert runs.metrics(tmp_path / "run") == runs.metrics(tmp_path / "undisturbed")
    ends = [runs.newest(tmp_path / name) for name in ("run", "undisturbed")]
    for file in ("model.safetensors", "state.json"):
        assert (ends[0] / file).read_bytes() == (ends[1] / file).read_bytes()
    script = runs.ROOT / "data_pipeline/survey.py"
    audit = runs.start(runs.python(script, "audit", "--run", tmp_path / "run"), tmp_path / "audit").wait().expect()
    assert str(digits) in audit.out
    assert str(other) in audit.out


def test_weights_must_be_one_for_each_dataset(runs: "Runs", digits: Path, other: Path, tmp_path: Path) -> None:
    child = runs.train(digits, tmp_path / "run", "--also", other, "--weights", 1)
    assert "--weights expects positive integers, one for --data and each of --also (2)" in child.wait().expect(2).err
