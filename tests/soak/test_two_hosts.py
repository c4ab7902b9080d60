"""Training on two hosts: the same weights as on one, whatever happens to their processes and to the link between them.

Some minutes, most of them waiting for what is lost. The hosts are network namespaces: tests/end_to_end/namespaces.py.
"""

import datetime
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import namespaces as Namespaces
    from tests.end_to_end import runs as Runs

_SPEC = importlib.util.spec_from_file_location("namespaces", Path(__file__).parents[1] / "end_to_end/namespaces.py")
assert _SPEC is not None
assert _SPEC.loader is not None
namespaces = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(namespaces)

_MISSING = namespaces.missing()
pytestmark = [pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING)), pytest.mark.timeout(900)]

HOLD = 20  # the step that disturbed runs are held at
PATIENCE = 60
PORT = 29500  # the hosts have their own
SLOW = 300  # seconds, on a busy machine


@pytest.fixture
def hosts() -> "Iterator[Namespaces.TwoHosts]":
    with namespaces.TwoHosts() as hosts:
        yield hosts


@pytest.fixture(scope="module")
def undisturbed(runs: "Runs", digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in two processes of one host."""
    out = tmp_path_factory.mktemp("one-host") / "run"
    runs.finish(digits, out, *OPTIONS, processes=2)
    return out


OPTIONS = ("--patience-seconds", PATIENCE, "--keep-checkpoints", 100, "--tracker", "none")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def say(text: str) -> None:
        with capsys.disabled():
            print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC  {text}", flush=True)

    return say


class Pair:
    """A run on both hosts, started by `accelerate launch` on each, as users do it."""

    def __init__(self, runs: "Runs", hosts: "Namespaces.TwoHosts", data: Path, out: Path) -> None:
        self.runs, self.hosts, self.data, self.out = runs, hosts, data, out

    def start(self, *, restarts: int = 0, hold: bool = False) -> "list[Runs.Child]":
        script = self.runs.held(self.runs.MAE, HOLD, self.out) if hold else (self.runs.MAE,)
        words = [*map(str, script), *self.runs.options(self.data, self.out, *OPTIONS)]
        accelerate = str(Path(sys.executable).with_name("accelerate"))
        started, moment = [], time.monotonic_ns()
        for host in range(2):
            options = f"--multi_gpu --num_machines 2 --num_processes 2 --machine_rank {host} --rdzv_backend static"
            more = f"--main_process_ip {self.hosts.addresses[0]} --main_process_port {PORT} --max_restarts {restarts}"
            rest = "--mixed_precision no --dynamo_backend no --monitor_interval 1"
            launch = [accelerate, "launch", *options.split(), *more.split(), *rest.split()]
            log = self.out.parent / f"host-{host}-{moment}"
            command = self.hosts.on(host, [*launch, *words])
            # torch decides when it is imported how much it says of a loss.
            started.append(self.runs.Child(command, log, {"ACCELERATE_USE_CPU": "true"}, cold=True))
        return started

    def until_held(self, world: "list[Runs.Child]") -> None:
        """Both are at the step, and a checkpoint from before is whole."""
        latest = self.out / "checkpoints/latest"
        world[0].wait_until(
            lambda: self.runs.last_step(self.out) >= HOLD - 1 and latest.exists() and "14" in latest.read_text(), SLOW
        )

    def rank(self, world: "list[Runs.Child]", number: int) -> int:
        return world[number].rank(number)

    def done(self, world: "list[Runs.Child]", undisturbed: Path) -> "list[Runs.Finished]":
        """They end of themselves, with the weights of the undisturbed run."""
        finished = [child.wait(SLOW).expect(0) for child in world]
        assert_gone(world)
        self.runs.assert_same(self.out, undisturbed)
        return finished


def assert_gone(world: "list[Runs.Child]") -> None:
    for child in world:
        assert child.is_gone(), f"processes remain: {child.members()}"


@pytest.fixture
def pair(runs: "Runs", hosts: "Namespaces.TwoHosts", digits: Path, tmp_path: Path) -> Pair:
    return Pair(runs, hosts, digits, tmp_path / "run")


def test_two_hosts_give_the_weights_of_one(pair: Pair, undisturbed: Path) -> None:
    finished = pair.done(pair.start(), undisturbed)
    assert "2 x cpu" in finished[0].out


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_comes_back(killed: int, pair: Pair, undisturbed: Path, say: Callable[[str], None]) -> None:
    world = pair.start(restarts=3, hold=True)
    pair.until_held(world)
    os.kill(pair.rank(world, killed), signal.SIGKILL)
    began = time.monotonic()
    pair.runs.release(pair.out)
    finished = pair.done(world, undisturbed)
    assert f"going on from {pair.out}/checkpoints/step-000000" in finished[0].out
    say(f"rank {killed} killed: the world was done {time.monotonic() - began:.0f} s later")


def test_a_cut_link(pair: Pair, undisturbed: Path, say: Callable[[str], None]) -> None:
    """Nobody else may write while both live; cut off, both end and name each other; then the same command goes on."""
    runs, hosts, out = pair.runs, pair.hosts, pair.out
    world = pair.start(hold=True)
    pair.until_held(world)
    second = runs.Child(hosts.on(1, runs.python(runs.MAE, *runs.options(pair.data, out, *OPTIONS))), out.parent / "2")
    refused = second.wait(SLOW).expect(1)
    first = pair.rank(world, 0)
    waits = f"{out} was held by host {hosts.names[0]}, pid {first}: going on in "
    assert waits in refused.out
    assert refused.err.startswith(f"mae.py: {out} is in use by host {hosts.names[0]}, pid {first}, generation 1, ")
    assert refused.err.count("\n") == 1
    who = [f"rank {rank} (host {hosts.names[rank]}, pid {pair.rank(world, rank)})" for rank in range(2)]

    hosts.cut()
    began = time.monotonic()
    runs.release(out)
    ended = [child.wait(PATIENCE + SLOW).expect(1) for child in world]
    took = time.monotonic() - began
    assert took < PATIENCE + 40, "of which the roll call takes ten, and a launcher a few"
    assert_gone(world)
    for rank, finished in enumerate(ended):
        told = f"mae.py: rank {rank}: {who[1 - rank]} has ended or stopped, or cannot be reached: what the others do "
        assert told in finished.err
    left = runs.read_exit(out)
    assert (left["status"], left["cause"]) == ("failed", "lost")
    assert left["error"].startswith(f"{who[1]} has ended or stopped, or cannot be reached")
    assert "stalled: no step has ended for " in ended[0].out
    stalls = {path.name.partition("-")[2]: path.read_text() for path in (out / "stalls").iterdir()}
    assert stalls.keys() == {"rank-0.txt", "rank-1.txt"}
    say(f"link cut: both ended {took:.0f} s later, with a patience of {PATIENCE} s")

    hosts.join()
    pair.done(pair.start(), undisturbed)


def test_a_lost_host_is_succeeded_by_the_other(pair: Pair, say: Callable[[str], None]) -> None:
    """Host 0 had the folder; from host 1 nobody can see that its process is dead, but that it is silent."""
    runs, out = pair.runs, pair.out
    world = pair.start(hold=True)
    pair.until_held(world)
    lost = pair.rank(world, 0)
    again = runs.options(pair.data, out, *OPTIONS)
    third = runs.Child(pair.hosts.on(1, runs.python(runs.MAE, *again)), out.parent / "again")
    third.wait_until(
        lambda: f"{out} was held by host {pair.hosts.names[0]}, pid {lost}: going on" in third.said(), SLOW
    )
    world[0].send_all(signal.SIGKILL)
    began = time.monotonic()
    ended = world[1].wait(SLOW).expect(1)
    assert f"rank 0 (host {pair.hosts.names[0]}, pid {lost}) has ended or stopped" in ended.err
    third.wait_until(lambda: "going on from " in third.said(), SLOW)
    took = time.monotonic() - began
    assert took > 45, "a heart that beat ten seconds before counts as beating for fifty more"
    say(f"host lost: its folder was the other's {took:.0f} s later")
    third.wait(SLOW).expect(0)
    assert runs.read_exit(out)["status"] == "done"
    assert list(runs.losses(out)) == list(range(1, runs.STEPS + 1))


def test_an_error_of_one_host_is_the_error_of_the_run(pair: Pair) -> None:
    """What a scheduler must not start again is told apart from what it may."""
    runs, out = pair.runs, pair.out
    world = pair.start(hold=True)
    pair.until_held(world)
    rank = pair.rank(world, 1)
    loaders = [pid for pid in world[1].members() if is_loader(pid)]
    for pid in loaders:
        os.kill(pid, signal.SIGKILL)
    runs.release(out)
    ended = [child.wait(SLOW).expect(1) for child in world]
    assert_gone(world)
    left = runs.read_exit(out)
    assert (left["status"], left["cause"]) == ("failed", "error")
    named = f"rank 1 (host {pair.hosts.names[1]}, pid {rank}) has failed: loader worker 0 (pid "
    assert left["error"].startswith(named)
    assert f"mae.py: rank 0: {named}" in ended[0].err
    assert "mae.py: rank 1: loader worker 0 (pid " in ended[1].err


def is_loader(pid: int) -> bool:
    return b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
