"""Pixels that are not numbers: steps are skipped and described, runs go back, go on without, or stop with an account.

The first samples of the stream are at run positions 0 to 63, those of step 1, and so on; checkpoints are written every
7 steps.
"""

import json
import signal
import tarfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from data_pipeline.manifest import read_manifest
from data_pipeline.order import Order, Plan
from pretrain.checkpoint import read_checkpoint

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

BATCH = 64
SHORT = ("--evaluate-epochs", 0, "--tracker", "none", "--workers", 0)  # evaluated after the last step alone
Position = int | tuple[int, int | None]
Case = Callable[["Runs", Path, Path], None]


def steps(first: int, last: int) -> tuple[int, int]:
    """The run positions of some steps of a run that has left nothing out."""
    return BATCH * (first - 1), BATCH * last


def begin(
    runs: "Runs",
    positions: list[Position],
    data: Path,
    out: Path,
    *more: object,
    processes: int = 1,
    point: str = "",
    cold: bool = False,
) -> "Runs.Child":
    """Start a tiny run in which the rows at these run positions are damaged; to die at the first time of a point."""
    crash = (runs.HERE / "crash_at.py", point, 1) if point else ()
    words = (runs.HERE / "poison.py", json.dumps(positions), *crash, runs.MAE, *runs.options(data, out, *more))
    command = runs.together(*words, processes=processes) if processes > 1 else runs.python(*words)
    return runs.start(command, out.with_name(f"{out.name}-log-{len(runs.STARTED)}"), cold=cold)


def end(runs: "Runs", child: "Runs.Child", out: Path) -> "Runs.Finished":
    """Wait for a run that ends as it should, with weights that are numbers."""
    finished = child.wait().expect(0)
    assert child.is_gone(), f"processes remain: {child.members()}"
    assert finished.err == ""
    assert runs.read_exit(out)["status"] == "done"
    read_checkpoint(runs.newest(out))  # verifies its checksums
    for file in (runs.newest(out) / "model.safetensors", out / "encoder/model.safetensors"):
        assert all(abs(tensor).max() < 1e3 for tensor in load_file(file).values())
    return finished


def saved_step(runs: "Runs", out: Path) -> int:
    """The step of the newest checkpoint, while the run goes on; 0 without any."""
    try:
        return int(runs.newest(out).name.removeprefix("step-"))
    except FileNotFoundError:
        return 0


def read(out: Path, name: str) -> dict[str, Any]:
    """A file in `anomalies/`."""
    return json.loads((out / "anomalies" / name).read_text())


def assert_same(runs: "Runs", run: Path, undisturbed: Path) -> None:
    """Two poisoned runs have left the same, bit for bit, but for the run's own path and what is measured."""
    assert runs.metrics(run) == runs.metrics(undisturbed)
    assert runs.read_exit(run)["step"] == runs.read_exit(undisturbed)["step"]
    assert runs.newest(run).name == runs.newest(undisturbed).name
    assert runs.contents(runs.newest(run)) == runs.contents(runs.newest(undisturbed))
    for folder in ("anomalies", "encoder", "figures"):
        assert runs.contents(run / folder) == runs.contents(undisturbed / folder), folder


def key_at(digits: Path, position: int) -> str:
    """The key of the sample at a run position: its place from the order alone, its name from the shard's own bytes."""
    split = read_manifest(digits).split("train")
    (shard,) = split.shards
    order = Order([shard.samples], [shard.bytes], fingerprint=split.fingerprint, plan=Plan(), seed=0)
    sample = order.locate(np.array([position])).sample.item()
    with tarfile.open(digits / shard.file) as tar:
        keys = [member.name.partition(".")[0] for member in tar]
    return list(dict.fromkeys(keys))[sample]


def one_image(runs: "Runs", digits: Path, out: Path) -> None:
    """Two steps with one such image each: stopped before them, killed between, and not as much as a bit differs."""
    images = BATCH * 26 + 34, BATCH * 39 + 5
    options = (*SHORT, "--log-every", 20)
    undisturbed = out.with_name("undisturbed")
    beside = begin(runs, list(images), digits, undisturbed, *options, cold=True)

    run = begin(runs, list(images), digits, out, *options)
    run.wait_until(lambda: saved_step(runs, out) >= 7)
    (out / "stop").touch()
    run.wait().expect(0)
    assert runs.read_exit(out)["status"] == "preempted"
    assert runs.read_exit(out)["step"] < 27
    run = begin(runs, list(images), digits, out, *options)
    run.wait_until(lambda: saved_step(runs, out) >= 28)
    run.send(signal.SIGKILL)
    run.wait().expect(-9)
    # Nothing is logged between steps 20 and 40: the checkpoint of step 28 has to know of step 27.
    assert (out / "anomalies/step-00000027.json").exists()
    resumed = end(runs, begin(runs, list(images), digits, out, *options), out)
    assert "going on from" in resumed.out

    finished = end(runs, beside, undisturbed)
    assert_same(runs, out, undisturbed)
    for position, step in zip(images, (27, 40), strict=True):
        key = key_at(digits, position)
        where = undisturbed / f"anomalies/step-{step:08d}.json"
        warning = f"step {step} skipped: loss not finite for 1 of 64 images ({key} of train-000000.tar); {where}"
        assert f"\nwarning: {warning}\n" in finished.out
        described = read(undisturbed, where.name)
        (image,) = described["images"]
        names = ("key", "shard", "position", "loss")
        assert [image[name] for name in names] == [key, "train-000000.tar", position, "nan"]
        assert image["data"] == str(digits)
        assert described["images_with_a_loss_that_is_not_finite"] == 1
        assert described["positions"] == [BATCH * (step - 1), BATCH * step]
        weights = load_file(runs.newest(out) / "model.safetensors")
        assert described["gradient_norms"].keys() == {name for name in weights if not name.endswith("pos_embed")}
    lines = {line["step"]: line for line in runs.metrics(out) if "loss" in line}
    assert list(lines) == [20, 40, 45]
    assert lines[40]["loss"] is lines[40]["grad_norm"] is None
    assert [lines[step].get("skipped_steps") for step in lines] == [None, 2, None]
    assert all(np.isfinite(lines[step]["loss"]) for step in (20, 45))


def ten_batches(runs: "Runs", digits: Path, out: Path) -> None:
    """Two ways back to the same checkpoint, the second with what the first left out; killed amid and after them."""
    poisoned: list[Position] = [steps(11, 20)]
    undisturbed = out.with_name("undisturbed")
    beside = begin(runs, poisoned, digits, undisturbed, *SHORT, cold=True)

    amid = begin(runs, poisoned, digits, out, *SHORT, point="lines-being-cut")
    amid.wait().expect(-9)
    assert amid.is_gone(), f"processes remain: {amid.members()}"
    assert saved_step(runs, out) == 7
    assert runs.last_step(out) == 14
    assert not list((out / "anomalies").glob("way-back-*"))
    after = begin(runs, poisoned, digits, out, *SHORT)
    after.wait_until((out / "anomalies/way-back-2.json").exists)
    after.send(signal.SIGKILL)
    after.wait().expect(-9)
    assert saved_step(runs, out) < 35
    end(runs, begin(runs, poisoned, digits, out, *SHORT), out)

    finished = end(runs, beside, undisturbed)
    assert_same(runs, out, undisturbed)
    for number in (1, 2):
        back = "5 steps were skipped of late: going back to step-00000007, and on without their batches"
        assert f"\nwarning: {back} (way back {number} of 2)\n" in finished.out
    first, last = steps(11, 20)
    spans = [[start, start + BATCH] for start in range(first, last, BATCH)]
    for number, left_out in enumerate((spans[:5], spans[5:]), start=1):
        back = read(out, f"way-back-{number}.json")
        assert (back["from_step"], back["to_step"]) == (15, 7)
        expected = list(zip(range(11, 16), left_out, strict=True))
        assert [(one["step"], one["positions"]) for one in back["left_out"]] == expected
    # What was skipped first is still told of, though its steps were counted anew.
    described = {path.name: json.loads(path.read_text())["positions"] for path in (out / "anomalies").glob("step-*")}
    again = "-after-way-back-1"
    assert described == {
        f"step-{step:08d}{more}.json": left_out
        for more, some in (("", spans[:5]), (again, spans[5:]))
        for step, left_out in zip(range(11, 16), some, strict=True)
    }
    state = read_checkpoint(runs.newest(out)).state
    assert state["step"] == runs.read_exit(out)["step"] == runs.STEPS - len(spans)
    assert state["stream"]["skipped"] == spans
    assert state["stream"]["position"] == runs.STEPS * BATCH
    losses = runs.losses(out)
    assert list(losses) == list(range(1, runs.STEPS - len(spans) + 1))
    assert all(np.isfinite(loss) for loss in losses.values())

    script = runs.ROOT / "data_pipeline/survey.py"
    audit = runs.python(script, "audit", "--run", out, "--out", out.with_name("proof"))
    said = runs.start(audit, out.with_name("audit")).wait().expect(0)
    assert "640 positions skipped" in said.out
    proof = json.loads((out.with_name("proof") / "audit.json").read_text())
    assert proof["proven"] is True
    assert [part["skipped"] for part in proof["parts"]] == [640]
    seen = proof["parts"][0]["seen"]
    assert sum(int(times) * samples for times, samples in seen.items()) == state["step"] * BATCH


def refused(runs: "Runs", child: "Runs.Child", out: Path) -> str:
    """Wait for a run that gives up; its account, one line."""
    finished = child.wait().expect(1)
    assert child.is_gone(), f"processes remain: {child.members()}"
    assert finished.err.count("\n") == 1, finished.err
    left = runs.read_exit(out)
    assert left["status"] == "failed"
    assert finished.err == f"mae.py: {left['error']}\n"
    return left["error"]


def all_from_some_step_on(runs: "Runs", digits: Path, out: Path) -> None:
    said = refused(runs, begin(runs, [(steps(11, 11)[0], None)], digits, out, *SHORT), out)
    assert said.startswith("losses or gradients of 5 steps from 11 to 15 are not finite, after 2 ways back to a ")
    assert f"; {out / 'anomalies'} says of which images and parameters. " in said
    assert said.endswith("; the checkpoints before are whole")
    # Each time with five batches more left out.
    described = sorted((out / "anomalies").glob("step-00000011*.json"))
    assert sorted(json.loads(path.read_text())["positions"][0] for path in described) == [640, 960, 1280]
    assert runs.newest(out).name == "step-00000014"
    for checkpoint in (out / "checkpoints").glob("step-*"):
        weights = load_file(read_checkpoint(checkpoint).path / "model.safetensors")
        assert all(np.isfinite(tensor).all() for tensor in weights.values())


def all_from_the_beginning(runs: "Runs", digits: Path, out: Path) -> None:
    said = refused(runs, begin(runs, [(0, None)], digits, out, *SHORT), out)
    assert said.startswith("losses or gradients of 5 steps from 1 on are not finite, and there is no checkpoint ")
    assert f"from before them to go back to; {out / 'anomalies'} says of which images and parameters. " in said
    assert not list((out / "checkpoints").iterdir())


def of_one_process(runs: "Runs", digits: Path, out: Path) -> None:
    """What one process has is skipped by both, and told once."""
    position = steps(10, 10)[0] + 1
    finished = end(runs, begin(runs, [position], digits, out, *SHORT, processes=2), out)
    key = key_at(digits, position)
    warning = f"step 10 skipped: loss not finite for 1 of 64 images ({key} of train-000000.tar); "
    assert finished.out.count(f"warning: {warning}") == finished.out.count("skipped:") == 1
    assert [path.name for path in (out / "anomalies").iterdir()] == ["step-00000010.json"]
    (image,) = read(out, "step-00000010.json")["images"]
    assert (image["key"], image["position"]) == (key, position)
    losses = runs.losses(out)
    assert losses.pop(10) is None
    # Of the mean over both: weights that are not finite on one of them would show.
    assert list(losses) == [step for step in range(1, runs.STEPS + 1) if step != 10]
    assert all(np.isfinite(loss) for loss in losses.values())


CASES: list[Case] = [ten_batches, one_image, of_one_process, all_from_some_step_on, all_from_the_beginning]


@pytest.fixture(scope="module")
def outcomes(
    runs: "Runs", digits: Path, side_by_side: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> dict[Case, Future[None]]:
    """All cases, some at a time; each test waits for its own."""
    return {
        case: side_by_side.submit(case, runs, digits, tmp_path_factory.mktemp(case.__name__) / "run") for case in CASES
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_pixels_that_are_not_numbers(outcomes: dict[Case, Future[None]], case: Case) -> None:
    outcomes[case].result()
