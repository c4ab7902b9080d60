"""Processes of a world that are lost: the others end, say who it was, and the same command goes on."""

import re
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

Scenario = Callable[["Runs", Path, Path], None]
# Of the start of Python, twice at once on a busy machine, and of the roll call.
SECONDS = 60
PATIENCE = 15


def ranks(runs: "Runs", data: Path, out: Path, *more: object, cold: bool = True) -> "list[Runs.Child]":
    """Two processes that nobody watches: a launcher would end the one when the other dies.

    Cold, as what torch says of a loss is decided when it is imported.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    words = runs.python(runs.MAE, *runs.options(data, out, "--tracker", "none", *more))
    started = time.monotonic_ns()
    return [
        runs.Child(
            words,
            out.parent / f"rank-{rank}-{started}",
            {**world, "RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "ACCELERATE_USE_CPU": "true"},
            cold=cold,
        )
        for rank in range(2)
    ]


def until(runs: "Runs", world: "list[Runs.Child]", out: Path, step: int) -> None:
    """And until there is a checkpoint: a thread writes it, and may come to it late."""
    latest = out / "checkpoints/latest"
    world[0].wait_until(lambda: runs.last_step(out) >= step and latest.exists())


def assert_named(runs: "Runs", finished: "Runs.Finished", who: int, lost: int, process: "Runs.Child") -> str:
    """One line, which names the lost one; returned as exit.json has it."""
    assert finished.err.count("\n") == 1, finished.err
    named = f"rank {lost} (host {socket.gethostname()}, pid {process.pid}) has ended or stopped"
    start = f"mae.py: rank {who}: "
    assert finished.err.startswith(start + named), finished.err
    assert "The same command goes on from the newest checkpoint, on any number of processes" in finished.err
    return finished.err.removeprefix(start).removesuffix("\n")


def assert_gone(world: "list[Runs.Child]") -> None:
    for child in world:
        assert child.is_gone(), f"processes remain: {child.members()}"


def go_on(runs: "Runs", data: Path, out: Path, *more: object) -> None:
    """The same command, to the end."""
    last = runs.newest(out)
    world = ranks(runs, data, out, *more, cold=False)
    finished = [child.wait().expect(0) for child in world]
    assert_gone(world)
    assert f"going on from {last}, step {int(last.name.removeprefix('step-'))}" in finished[0].out
    assert [one.err for one in finished] == ["", ""]
    assert runs.read_exit(out)["status"] == "done"
    assert list(runs.losses(out)) == list(range(1, runs.STEPS + 1))
    assert runs.newest(out).name == f"step-{runs.STEPS:08d}"


def second_killed(runs: "Runs", data: Path, out: Path) -> None:
    world = ranks(runs, data, out)
    until(runs, world, out, 9)
    world[1].send(signal.SIGKILL)
    killed = time.monotonic()
    error = assert_named(runs, world[0].wait(SECONDS).expect(1), 0, 1, world[1])
    assert time.monotonic() - killed < 40, "expected seconds, not the patience of ten minutes"
    assert_gone(world)
    ending = runs.read_exit(out)
    assert (ending["status"], ending["error"]) == ("failed", error)
    go_on(runs, data, out)


def first_killed(runs: "Runs", data: Path, out: Path) -> None:
    """It had the folder: nobody is left to write exit.json."""
    options = ("--workers", 0)
    world = ranks(runs, data, out, *options)
    until(runs, world, out, 9)
    world[0].send(signal.SIGKILL)
    assert_named(runs, world[1].wait(SECONDS).expect(1), 1, 0, world[0])
    assert_gone(world)
    assert not (out / "exit.json").exists()
    go_on(runs, data, out, *options)


def second_stopped(runs: "Runs", data: Path, out: Path) -> None:
    """As one that hangs; woken later, it finds itself alone."""
    options = ("--patience-seconds", PATIENCE, "--workers", 0)
    world = ranks(runs, data, out, *options)
    until(runs, world, out, 9)
    world[1].send(signal.SIGSTOP)
    stopped = time.monotonic()
    error = assert_named(runs, world[0].wait(PATIENCE + SECONDS).expect(1), 0, 1, world[1])
    assert time.monotonic() - stopped > PATIENCE
    ending = runs.read_exit(out)
    assert (ending["status"], ending["error"]) == ("failed", error)
    before = runs.contents(out)
    world[1].send(signal.SIGCONT)
    assert_named(runs, world[1].wait(SECONDS).expect(1), 1, 0, world[0])
    assert_gone(world)
    assert runs.contents(out) == before
    go_on(runs, data, out, *options)


def first_stopped(runs: "Runs", data: Path, out: Path) -> None:
    """Woken, it still has the folder, and says why it ended."""
    options = ("--patience-seconds", PATIENCE, "--workers", 0)
    world = ranks(runs, data, out, *options)
    until(runs, world, out, 9)
    world[0].send(signal.SIGSTOP)
    assert_named(runs, world[1].wait(PATIENCE + SECONDS).expect(1), 1, 0, world[0])
    world[0].send(signal.SIGCONT)
    error = assert_named(runs, world[0].wait(SECONDS).expect(1), 0, 1, world[1])
    assert_gone(world)
    ending = runs.read_exit(out)
    assert (ending["status"], ending["error"]) == ("failed", error)


def launcher_killed(runs: "Runs", data: Path, out: Path) -> None:
    """The kernel tells its ranks, which save and leave."""
    run = runs.train(data, out, processes=2)
    run.wait_until(lambda: runs.last_step(out) >= 9)
    run.send(signal.SIGKILL)
    run.wait().expect(-signal.SIGKILL)
    assert run.is_gone(SECONDS), f"processes remain: {run.members()}"
    ending = runs.read_exit(out)
    assert ending["status"] == "preempted"
    assert ending["step"] < runs.STEPS
    assert runs.newest(out).name == f"step-{ending['step']:08d}"
    assert re.search(rf"asked to stop: saved step {ending['step']}; the same command goes on", run.said())
    finished = runs.finish(data, out, processes=2)
    assert f"going on from {out / 'checkpoints'}/step-{ending['step']:08d}, step {ending['step']}" in finished.out
    assert list(runs.losses(out)) == list(range(1, runs.STEPS + 1))


SCENARIOS: list[Scenario] = [second_killed, first_killed, second_stopped, first_stopped, launcher_killed]


@pytest.fixture(scope="module")
def outcomes(
    runs: "Runs", digits: Path, side_by_side: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> dict[Scenario, Future[None]]:
    """All scenarios, some at a time; each test waits for its own."""
    return {
        scenario: side_by_side.submit(scenario, runs, digits, tmp_path_factory.mktemp(scenario.__name__) / "run")
        for scenario in SCENARIOS
    }


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_lost(outcomes: dict[Scenario, Future[None]], scenario: Scenario) -> None:
    outcomes[scenario].result()
