"""A run of masked autoencoding that is killed, stopped or cut up differently ends as if nothing had happened."""

import os
import random
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs


# A run that is to be disturbed does not get past this step of 45 before it has been.
HELD = 40


def kill_and_resume(runs: "Runs", data: Path, out: Path, undisturbed: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"the moments come from seed {seed}")
    dice = random.Random(seed)
    for _ in range(3):
        # At least 4 steps on, so that the last kills come after the checkpoint of step 7.
        wanted = runs.last_step(out) + dice.randint(4, 11)
        run = runs.train(data, out, hold=HELD)
        run.wait_until(lambda wanted=wanted: runs.last_step(out) >= wanted)
        time.sleep(dice.uniform(0, 0.06))
        assert len(run.members()) >= 3, "expected a loader worker and its server beside the run"
        run.send(signal.SIGKILL)
        run.wait().expect(-9)
        assert run.is_gone(), f"processes remain: {run.members()}"
        assert not (out / "exit.json").exists()
    finished = runs.finish(data, out)
    assert "going on from" in finished.out
    runs.assert_same(out, undisturbed)


def stop_and_resume(runs: "Runs", data: Path, out: Path, undisturbed: Path) -> None:
    """Stopped by TERM, by TERM to every process as schedulers send it, by Ctrl-C, and by a file."""
    askers: list[Callable[[Runs.Child], object]] = [
        lambda run: run.send(signal.SIGTERM),
        lambda run: run.send_all(signal.SIGTERM),
        lambda run: run.send_all(signal.SIGINT),
        lambda _: (out / "stop").touch(),
    ]
    for ask in askers:
        wanted = runs.last_step(out) + 6
        run = runs.train(data, out, hold=HELD)
        run.wait_until(lambda wanted=wanted: runs.last_step(out) >= wanted)
        ask(run)
        runs.release(out)
        stopped = run.wait().expect(0)
        assert run.is_gone(), f"processes remain: {run.members()}"
        step = runs.read_exit(out)["step"]
        assert f"asked to stop: saved step {step}; the same command goes on from there" in stopped.out
        assert runs.read_exit(out)["status"] == "preempted"
        assert runs.newest(out).name == f"step-{step:08d}"
        assert runs.last_step(out) == step
        assert not (out / "stop").exists()
        assert stopped.err == ""
    runs.finish(data, out)
    runs.assert_same(out, undisturbed)


def accumulate(runs: "Runs", data: Path, out: Path, undisturbed: Path) -> None:
    runs.finish(data, out, "--accumulate", 2, "--workers", 0)
    found, expected = runs.losses(out), runs.losses(undisturbed)
    assert {step: found[step] for step in range(1, 16)} == pytest.approx(
        {step: expected[step] for step in range(1, 16)}, abs=1e-5, rel=0
    )


def kill_a_worker(runs: "Runs", data: Path, out: Path, undisturbed: Path) -> None:
    run = runs.train(data, out, hold=HELD)
    run.wait_until(lambda: runs.last_step(out) >= 10)
    members = {pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in run.members()}
    (worker,) = (pid for pid, parent in members.items() if parent in members and parent != run.pid)
    os.kill(worker, signal.SIGKILL)
    runs.release(out)
    finished = run.wait().expect(1)
    assert f"loader worker 0 (pid {worker}) died, exit code -9: killed from outside" in finished.err
    assert run.is_gone(), f"processes remain: {run.members()}"
    assert runs.read_exit(out)["status"] == "failed"
    assert f"loader worker 0 (pid {worker}) died" in runs.read_exit(out)["error"]
    runs.finish(data, out)
    runs.assert_same(out, undisturbed)


def go_on_elsewhere(runs: "Runs", data: Path, out: Path, undisturbed: Path) -> None:
    """--resume takes weights, optimizer and place from another folder, --init-from the weights alone."""
    checkpoint = undisturbed / "checkpoints/step-00000028"
    resumed = runs.finish(data, out, "--resume", checkpoint, "--workers", 0)
    assert f"going on from {checkpoint}, step 28" in resumed.out
    assert runs.metrics(out) == [line for line in runs.metrics(undisturbed) if line["step"] > 28]
    assert runs.contents(runs.newest(out)) == runs.contents(runs.newest(undisturbed))
    begun = runs.finish(data, out.with_name("begun"), "--init-from", undisturbed, "--workers", 0)
    assert f"starting with the weights of {runs.newest(undisturbed)}" in begun.out
    losses = runs.losses(out.with_name("begun"))
    assert list(losses) == list(range(1, runs.STEPS + 1))
    assert losses[1] < runs.losses(undisturbed)[1] / 2


def change_on_the_way(runs: "Runs", data: Path, out: Path, undisturbed: Path) -> None:
    """What may change on resume, workers and caches above all, and changes nothing that is computed."""

    def stop_at(step: int, *more: object) -> "Runs.Finished":
        run = runs.train(data, out, "--checkpoint-steps", 5, "--keep-checkpoints", 1, *more, hold=HELD)
        run.wait_until(lambda: runs.last_step(out) >= step)
        (out / "stop").touch()
        runs.release(out)
        return run.wait().expect(0)

    stop_at(12, "--workers", 0)
    cached = stop_at(26, "--cache", "device")
    assert "decoding 1,437 images once, into 0.3 MB of memory" in cached.out
    assert len(list((out / "checkpoints").glob("step-*"))) == 1
    moved = out.parent / "moved data"
    moved.symlink_to(data)
    last = runs.finish(data, out, "--data", moved, "--workers", 2, "--cache", "memory")
    assert "decoding 1,437 images once" in last.out
    assert re.search(r"data: [\d,]+ images/s; waited for [\d.]+% of the time", last.out)
    assert "Pillow decoded" not in last.out
    assert runs.metrics(out) == runs.metrics(undisturbed)
    assert (runs.newest(out) / "model.safetensors").read_bytes() == (
        runs.newest(undisturbed) / "model.safetensors"
    ).read_bytes()


SCENARIOS = {
    "kills": kill_and_resume,
    "stops": stop_and_resume,
    "accumulated": accumulate,
    "a worker killed": kill_a_worker,
    "another folder": go_on_elsewhere,
    "changed on the way": change_on_the_way,
}


@pytest.fixture(scope="module")
def outcomes(
    runs: "Runs",
    digits: Path,
    undisturbed: Path,
    side_by_side: ThreadPoolExecutor,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Future[None]]:
    """All scenarios, some at a time; each test waits for its own."""
    return {
        name: side_by_side.submit(scenario, runs, digits, tmp_path_factory.mktemp("exactness") / "run", undisturbed)
        for name, scenario in SCENARIOS.items()
    }


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_same_results(outcomes: dict[str, Future[None]], scenario: str) -> None:
    outcomes[scenario].result()
