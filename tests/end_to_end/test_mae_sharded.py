"""Weights and optimizer shared out over two processes (FSDP2): the same losses, checkpoints and encoder as DDP."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

SHARDED = "--shard-parameters"
LONGER = ("--epochs", 6.5, "--evaluate-epochs", 2, "--keep-checkpoints", 100, "--workers", 0)
STEPS = 146
EVALUATED = (45, 90, 135, 146)


def stop_at(runs: "Runs", data: Path, out: Path, step: int, *more: object) -> int:
    """Train on two processes, and ask them to stop once they are so far; where they stopped."""
    run = runs.train(data, out, *LONGER, *more, processes=2, launch=runs.launched if more else runs.together)
    run.wait_until(lambda: runs.last_step(out) >= step)
    (out / "stop").touch()
    assert "Warning" not in run.wait().expect(0).err
    assert run.is_gone(), f"processes remain: {run.members()}"
    assert runs.read_exit(out)["status"] == "preempted"
    return runs.read_exit(out)["step"]


class Both(NamedTuple):
    """Two runs that DDP began: `shared` was then sharded from step `start` to `stop`, and ended by DDP as `ddp` was."""

    ddp: Path
    shared: Path
    start: int
    stop: int


@pytest.fixture(scope="module")
def both(
    runs: "Runs", digits: Path, side_by_side: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> Both:
    folder = tmp_path_factory.mktemp("sharded")
    ddp, shared = folder / "ddp", folder / "shared"
    start = stop_at(runs, digits, ddp, 15)
    shutil.copytree(ddp, shared)
    other = side_by_side.submit(runs.finish, digits, ddp, *LONGER, processes=2, launch=runs.together)
    stop = stop_at(runs, digits, shared, start + 105, SHARDED)
    finished = runs.finish(digits, shared, *LONGER, processes=2, launch=runs.together)
    assert f"going on from {shared / 'checkpoints'}/step-{stop:08d}, step {stop}" in finished.out
    assert "not bit-equal" not in finished.out
    other.result()
    return Both(ddp, shared, start, stop)


def test_the_same_losses(runs: "Runs", both: Both) -> None:
    assert both.stop - both.start >= 100
    expected, found = runs.losses(both.ddp), runs.losses(both.shared)
    assert list(found) == list(expected) == list(range(1, STEPS + 1))
    worst = max(expected, key=lambda step: abs(found[step] - expected[step]))
    print(f"the losses differ by at most {abs(found[worst] - expected[worst]):.1e}, after step {worst}")
    assert abs(found[worst] - expected[worst]) <= 1e-5, f"step {worst}: {found[worst]} and {expected[worst]}"


def test_the_same_evaluations(runs: "Runs", both: Both) -> None:
    expected, found = (
        {line["step"]: line["knn_top1"] for line in runs.metrics(run) if "knn_top1" in line}
        for run in (both.ddp, both.shared)
    )
    assert tuple(found) == tuple(expected) == EVALUATED
    assert found == pytest.approx(expected, abs=2 / 128)  # of 128 images, two may stand between two classes


def header(path: Path) -> dict[str, Any]:
    """What a safetensors file says of itself: names, kinds, shapes, and where each tensor lies."""
    with path.open("rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))


def test_the_same_checkpoints(runs: "Runs", both: Both) -> None:
    """Files, names, shapes, kinds, places in the file, and the state beside the tensors."""
    sharded = [step for step in range(7, STEPS, 7) if both.start < step <= both.stop]
    assert len(sharded) >= 14
    for step in sharded:
        one, other = (run / f"checkpoints/step-{step:08d}" for run in (both.ddp, both.shared))
        assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
        for file in ("model.safetensors", "optimizer.safetensors"):
            assert header(one / file) == header(other / file)
            assert (one / file).stat().st_size == (other / file).stat().st_size
        assert (one / "state.json").read_bytes() == (other / "state.json").read_bytes()


@pytest.mark.parametrize("how", [((SHARDED,), 2), ((SHARDED,), 1), ((), 1)], ids=["sharded", "one sharded", "one"])
def test_the_same_encoder(
    runs: "Runs", digits: Path, both: Both, tmp_path: Path, how: tuple[tuple[str, ...], int]
) -> None:
    """Written again from the last checkpoint."""
    options, processes = how
    out = tmp_path / "run"
    shutil.copytree(both.ddp, out)
    shutil.rmtree(out / "encoder")
    finished = runs.finish(digits, out, *LONGER, *options, processes=processes, launch=runs.together)
    assert runs.contents(out / "encoder") == runs.contents(both.ddp / "encoder")
    alone = "--shard-parameters: this one process holds everything, as there is no other to share it with"
    assert (alone in finished.out) == (bool(options) and processes == 1)
    assert finished.err == ""


def test_the_runs_are_not_one_and_the_same(runs: "Runs", both: Both) -> None:
    """Norms of shares are summed in another order than norms of the whole."""
    norms = [{line["step"]: line["grad_norm"] for line in runs.metrics(run) if "grad_norm" in line} for run in both[:2]]
    for step in range(1, both.start + 1):
        assert norms[0][step] == norms[1][step]
    assert any(norms[0][step] != norms[1][step] for step in range(both.start + 1, both.stop + 1))
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
