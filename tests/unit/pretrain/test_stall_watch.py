"""When a run counts as stalled, and what is told of it; the clock is the test's."""

import ctypes
import io
import json
import math
import os
import re
import threading
import time
from pathlib import Path

import pytest

from launch.console import Console
from launch.run_folder import RunFolder
from pretrain import stall_watch
from pretrain.roll_call import RankLostError, Sign, Stage
from pretrain.stall_watch import StallWatch, survey
from pretrain.world import World

PATIENCE = 100.0


class Several(World):
    """A world of three, of which this process knows what the test tells it."""

    rank, size = 0, 3
    told: tuple[Sign, ...] = ()
    gone: RankLostError | None = None

    def __init__(self, rank: int = 0) -> None:
        super().__init__("fp32", patience=PATIENCE)
        self.rank, self.size = rank, 3

    @property
    def who(self) -> list[str]:
        return [f"rank {rank} (host h{rank}, pid 4{rank})" for rank in range(3)]

    def signs(self) -> list[Sign]:
        return list(self.told)

    def lost(self, reason: str) -> RankLostError | None:
        self.reason = reason
        return self.gone


class Run:
    """A run of an hour, looked at once a second."""

    def __init__(self, folder: Path, world: World | None = None, *, compiles: bool = False) -> None:
        self.world = world or World("fp32", patience=PATIENCE)
        self.run, self._said, self.now = RunFolder(folder), io.StringIO(), time.monotonic()
        console = Console(self.world.rank, self._said)
        self.watch = StallWatch(self.world, self.run, console, loader=lambda: "a worker sleeps", compiles=compiles)

    def stays(self, seconds: float, stage: Stage = "read") -> None:
        self.world.place.stage = stage
        for _ in range(math.ceil(seconds)):
            self.now += 1
            self.watch.look(self.now)

    def steps(self, count: int, seconds: float = 1) -> None:
        for _ in range(count):
            self.world.at(self.world.place.step + 1)
            self.stays(seconds, "step")

    @property
    def said(self) -> list[str]:
        return self._said.getvalue().splitlines()

    @property
    def files(self) -> list[Path]:
        return sorted(self.run.stalls.glob("*"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_stall_is_told_once_and_its_end_as_well(run: Run, tmp_path: Path) -> None:
    run.steps(5)
    run.stays(45)
    assert run.said == []
    run.stays(10)
    where = "step 5 (read: a worker sleeps)"
    told = f"stalled: no step has ended for 50 s: {where}; the stacks of each process are in {tmp_path}/stalls"
    assert run.said == [told]
    run.stays(200)
    assert run.said == [told]
    run.steps(2)
    assert run.said == [told, "going on after 255 s, step 6"]
    (file,) = run.files
    assert re.fullmatch(r"\d{8}T\d{6}Z-rank-0\.txt", file.name)
    text = file.read_text()
    assert re.match(
        rf"\d+-.*\+00:00, pid {os.getpid()}: no step has ended for 50 s: step 5 \(read: a worker sleeps\)\n\n", text
    )
    assert " MainThread\n" in text
    assert "in test_a_stall_is_told_once_and_its_end_as_well" in text
    run.stays(60)
    assert len(run.said) == 3, "another stall is told as well"


def test_the_first_step_takes_longer(run: Run) -> None:
    run.stays(5, "read")
    run.steps(1, 90)
    assert run.said == []
    run.stays(1)
    assert len(run.said) == 1


def test_a_first_step_that_compiles_takes_any_time(tmp_path: Path) -> None:
    run = Run(tmp_path, compiles=True)
    run.steps(1, 1000)
    assert run.said == []
    run.steps(1, 52)
    assert len(run.said) == 0, "as long a step as the first is no surprise"
    run = Run(tmp_path, compiles=True)
    run.steps(1, 10)
    run.steps(1, 52)
    assert len(run.said) == 1


def test_steps_that_are_long_as_a_rule(tmp_path: Path) -> None:
    """Nobody waits for a single process; several would lose their patience."""
    alone, several = Run(tmp_path / "alone"), Run(tmp_path / "several", Several())
    for run in (alone, several):
        run.run.path.mkdir()
        run.steps(3, 41)
        run.stays(45)
        assert run.said == []
    several.stays(5)
    assert "no step has ended for 90 s" in several.said[0]
    alone.stays(34)
    assert alone.said == []
    alone.stays(2)
    assert "no step has ended for 120 s" in alone.said[0]


def test_neither_evaluation_nor_what_is_around_training_is_a_stall(run: Run) -> None:
    run.stays(1000, "start")
    run.steps(3)
    run.stays(1000, "evaluate")
    run.stays(45, "step")
    run.stays(1000, "end")
    assert run.said == []


def test_after_a_way_back_the_first_step_takes_longer_again(run: Run) -> None:
    run.steps(5)
    run.stays(1000, "start")
    run.world.place.step = 2
    run.stays(85, "read")
    assert run.said == []
    run.stays(6, "read")
    assert len(run.said) == 1


def test_time_in_which_the_process_was_stopped_does_not_count(run: Run) -> None:
    run.steps(5)
    for _ in range(4):
        run.now += 1000
        run.stays(1)
    assert run.said == []


def test_rank_0_says_where_all_are(tmp_path: Path) -> None:
    world = Several()
    run = Run(tmp_path, world)
    run.steps(5)
    world.told = (Sign(10, 5, "wait"), Sign(10, 5, "read"), Sign(10, 4, "save"))
    run.stays(30)
    world.told = (Sign(20, 5, "wait"), Sign(20, 5, "read", "a worker sleeps"), Sign(10, 4, "save"))
    run.stays(20)
    assert run.said == [
        "stalled: no step has ended for 50 s: rank 2 (host h2, pid 42) silent since at step 4 (save); rank 1 (host h1, "
        "pid 41) at step 5 (read: a worker sleeps); rank 0 (host h0, pid 40) at step 5 (wait); the stacks of each "
        f"process are in {tmp_path}/stalls"
    ]


def test_the_others_write_and_say_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, Several(rank=2))
    run.steps(5)
    run.stays(60)
    assert run.said == []
    (file,) = run.files
    assert file.name.endswith("-rank-2.txt")
    assert "rank 2 (host h2, pid 42): no step has ended for 50 s: step 5 (read: a worker sleeps)\n" in file.read_text()


def test_many_processes_are_told_of_in_short() -> None:
    who = [f"rank {rank} (host h, pid {rank})" for rank in range(1024)]
    signs = [Sign(9, 118, "wait") for _ in who]
    signs[57] = Sign(9, 118, "read")
    assert survey(who, signs) == "rank 57 (host h, pid 57) at step 118 (read); ranks 0-56, 58-1023 at step 118 (wait)"


def test_what_a_loader_does_is_told_of_reading_alone_and_while_it_takes_long(run: Run) -> None:
    run.steps(5)
    run.stays(20, "read")
    assert run.world.place.doing == ""
    run.stays(10, "read")
    assert run.world.place.doing == "a worker sleeps"
    run.stays(1, "log")
    assert run.world.place.doing == ""
    run.stays(1, "read")
    run.steps(1)
    assert run.world.place.doing == ""


def test_a_folder_that_cannot_be_written(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.run.stalls.touch()
    run.steps(5)
    run.stays(60)
    assert len(run.said) == 1
    assert re.search(
        r"no step has ended for 50 s: step 5 \(read: a worker sleeps\), and where exactly .*exists",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_was_left_alone_ends(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends: list[int] = []
    monkeypatch.setattr(stall_watch.os, "_exit", ends.append)
    world = Several(rank)
    run = Run(tmp_path, world)
    run.steps(5)
    run.stays(200)
    assert world.reason.startswith("no step has ended for ")
    assert ends == [], "nobody is lost"
    world.gone = RankLostError("rank 2 has ended")
    run.stays(31)
    assert ends == [1]
    assert capsys.readouterr().err.endswith(": rank 2 has ended\n")
    exits = json.loads(run.run.exit.read_text()) if rank == 0 else {}
    assert (exits.get("status"), exits.get("cause")) == (("failed", "lost") if rank == 0 else (None, None))


def test_where_python_is_held_up_the_stacks_go_to_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stall_watch, "_DEAF", 0.1)
    has_looked = threading.Event()
    monkeypatch.setattr(StallWatch, "look", lambda *_: has_looked.set())
    world, console = World("fp32", patience=0.2), Console(0, io.StringIO())
    with StallWatch(world, RunFolder(tmp_path), console, loader=str):
        has_looked.wait()
        ctypes.PyDLL(None).usleep(700_000)  # a PyDLL does not let go of Python's lock
    told = capfd.readouterr().err
    assert told.startswith("Timeout (0:00:00.3")
    assert "in test_where_python_is_held_up_the_stacks_go_to_stderr\n" in told


def test_the_thread_looks_by_itself_and_ends(tmp_path: Path) -> None:
    world = World("fp32", patience=0.4)
    said = io.StringIO()
    with StallWatch(world, RunFolder(tmp_path), Console(0, said), loader=str):
        world.at(1)
        deadline = time.monotonic() + 20
        while "\n" not in said.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert re.match(r"stalled: no step has ended for 0 s: step 1 \(step\)", said.getvalue())
    assert "stall watch" not in [thread.name for thread in threading.enumerate()]
