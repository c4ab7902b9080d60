"""Checkpoints written beside training: copies of their step, one at a time, with errors that come out."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from launch.run_folder import RunFolder
from pretrain import saver as module
from pretrain.checkpoint import load_optimizer, load_weights, newest_checkpoint, save_checkpoint
from pretrain.config import OptimizerConfig
from pretrain.optimizer import create_optimizer
from pretrain.saver import Keeping, Saver

KEEPING = Keeping(3, 0)


class Trained:
    """A model whose weights are the number of steps it has been through, and its optimizer."""

    def __init__(self) -> None:
        self.model = nn.Linear(2, 2)
        self.optimizer = create_optimizer(self.model, OptimizerConfig())
        self.step_to(0)

    def step_to(self, step: int) -> None:
        for parameter in self.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.fill_(step)

    def save(self, saver: Saver, step: int) -> None:
        self.step_to(step)
        saver.save(self.model, self.optimizer, {"step": step})


def names(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    return run


class Gate:
    """The writing of checkpoints waits here until it is opened; `at_once` is how many have waited together."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.at_once = 0
        self._inside = 0

    def save(self, *arguments: Any, **named: Any) -> Path:
        self._inside += 1
        self.at_once = max(self.at_once, self._inside)
        assert self.open.wait(30)
        path = save_checkpoint(*arguments, **named)
        self._inside -= 1
        return path


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(module, "save_checkpoint", gate.save)
    yield gate
    gate.open.set()


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, name: str = "save_checkpoint") -> Iterator[None]:
    """In here a checkpoint cannot be written."""

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        yield


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_what_is_written_is_whole_and_of_its_own_step_though_training_goes_on(run: RunFolder, gate: Gate):
    trained = Trained()
    with Saver(run, KEEPING, writes=True) as saver:
        trained.save(saver, 1)
        for step in (2, 3):
            trained.step_to(step)
        assert names(run) == []
        gate.open.set()
    checkpoint = newest_checkpoint(run.checkpoints, print)
    assert checkpoint is not None
    assert checkpoint.step == 1
    found = Trained()
    load_weights(checkpoint, found.model)
    load_optimizer(checkpoint, found.optimizer)
    assert all(parameter.eq(1).all() for parameter in found.model.parameters())
    assert {float(state["step"]) for state in found.optimizer.state.values()} == {
        2.0
    }  # of the beginning, and of step 1


def test_the_next_waits_for_the_one_before(run: RunFolder, gate: Gate):
    trained = Trained()
    with Saver(run, KEEPING, writes=True) as saver:
        trained.save(saver, 1)
        threading.Timer(0.2, gate.open.set).start()
        stalled = saver.stalled
        trained.save(saver, 2)
        assert saver.stalled - stalled >= 0.1
        assert (run.checkpoints / "step-00000001").exists()
    assert gate.at_once == 1
    assert names(run) == ["latest", "step-00000001", "step-00000002"]
    assert (run.checkpoints / "latest").read_text() == "step-00000002\n"


def test_the_newest_are_kept_and_every_nth(run: RunFolder):
    trained = Trained()
    with Saver(run, Keeping(last=2, every=3), writes=True) as saver:
        for step in range(1, 9):
            trained.save(saver, step)
    assert names(run) == ["latest", *(f"step-{step:08d}" for step in (3, 6, 7, 8))]


@pytest.mark.parametrize("of", ["save_checkpoint", "move_latest"])
@pytest.mark.parametrize("call", ["check", "wait", "save", "with"])
def test_what_the_thread_meets_is_raised_once_by_the_next_call(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, call: str, of: str
):
    trained, saver = Trained(), Saver(run, KEEPING, writes=True)
    before = threading.active_count()
    with failing(monkeypatch, of):
        trained.save(saver, 1)
        until(lambda: threading.active_count() <= before)
    calls: dict[str, Callable[[], object]] = {
        "check": saver.check,
        "wait": saver.wait,
        "save": lambda: trained.save(saver, 2),
        "with": lambda: saver.__exit__(None, None, None),
    }
    with pytest.raises(OSError, match="the disk is full"):
        calls[call]()
    calls[call]()
    saver.wait()
    assert ("step-00000002" in names(run)) == (call == "save")


def test_an_error_of_training_is_not_hidden_and_what_is_being_written_is_ended(run: RunFolder, gate: Gate):
    trained, saver = Trained(), Saver(run, KEEPING, writes=True)

    def train() -> None:
        with saver:
            trained.save(saver, 1)
            threading.Timer(0.1, gate.open.set).start()
            raise FloatingPointError("of training")

    with pytest.raises(FloatingPointError, match="of training"):
        train()
    assert (run.checkpoints / "latest").read_text() == "step-00000001\n"


def test_an_error_of_training_comes_before_one_of_writing(run: RunFolder, monkeypatch: pytest.MonkeyPatch):
    trained, saver = Trained(), Saver(run, KEEPING, writes=True)

    def train() -> None:
        with saver:
            trained.save(saver, 1)
            raise FloatingPointError("of training")

    with failing(monkeypatch), pytest.raises(FloatingPointError, match="of training"):
        train()


def test_other_processes_write_nothing(run: RunFolder):
    trained, threads = Trained(), threading.active_count()
    with Saver(run, KEEPING, writes=False) as saver:
        trained.save(saver, 1)
        assert threading.active_count() <= threads
    assert names(run) == []
