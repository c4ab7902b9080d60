"""`fit` with an average of the weights, a best checkpoint and an early end: the same after a crash at any moment.

Run as a script it is one process of several, which train together (`together`).
"""

import functools
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from data_pipeline.batch_spans import BatchSpans
from data_pipeline.order import rank_positions
from data_pipeline.rows import FillReport
from data_pipeline.stream import Batch, Stream
from launch.console import Console
from launch.run_folder import RunFolder
from pretrain import fitting, loop, meter, saver
from pretrain.anomalies import Watch
from pretrain.anomaly_config import AnomalyConfig
from pretrain.averaging import Average
from pretrain.best_checkpoint import find_best
from pretrain.checkpoint import folder_of_step, load_weights, newest_checkpoint, newest_step
from pretrain.config import OptimizerConfig
from pretrain.loop import fit
from pretrain.optimizer import create_optimizer
from pretrain.saver import Keeping
from pretrain.selection import EVALUATED, Selection
from pretrain.session import find_start
from pretrain.training import Ending, Objective, Options, Pace, Training
from pretrain.world import World

SIZE = 8
# Of the evaluations after steps 2, 4, ...: that of step 4 is the best, and that of step 6 as good.
SCORES = {2: 0.25, 4: 0.5, 6: 0.5, 8: 0.375, 10: 0.125, 12: 0.75}
PATIENT = Selection("top1", patience=2)
PACE = Pace(accumulate=1, log_every=3, checkpoint_steps=3, evaluate_steps=2, keeping=Keeping(1, 0))


class Counted(Stream):
    """Batches whose rows are known by their run positions alone; `before` is called while each is waited for."""

    before: Callable[[], None]

    def __init__(self, steps: int, rank: int = 0, world: int = 1) -> None:
        self.parts = ()
        self.report = FillReport()
        self._batch_size, self._workers, self._rank, self._world = SIZE, 0, rank, world
        self._spans = BatchSpans(SIZE, steps * SIZE)
        self._position = 0

    @property
    def epoch_positions(self) -> int:
        return 6 * SIZE

    def state(self) -> dict[str, Any]:
        return {"position": self._position, "substitutions": [], "skipped": [list(one) for one in self._spans.skipped]}

    def load_state(self, state: Any) -> None:
        self._position = state["position"]
        self._spans.skipped = [(start, stop) for start, stop in state["skipped"]]

    def __iter__(self) -> Iterator[Batch]:
        for start, stop in self._spans.after(self._position):
            self.before()
            self._position = stop
            rows = rank_positions(start, stop - start, self._rank, self._world)
            images, labels = torch.zeros(len(rows), 1, 1, 1, 3, dtype=torch.uint8), torch.zeros(len(rows)).long()
            yield Batch((images,), labels, rows, rows, rows, rows)

    def close(self) -> None:
        """Nothing was opened."""


def build() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.GELU(), nn.Linear(5, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@dataclass
class Trial:
    """A run, as a training script would make it; call `train` for each start of the script."""

    folder: Path
    steps: int = 12
    decay: float | None = 0.75
    selection: Selection | None = PATIENT
    scores: dict[int, float] = field(default_factory=lambda: dict(SCORES))
    broken: frozenset[int] = frozenset()
    """Run positions of rows that are not finite."""
    left_out: tuple[int, ...] = ()
    """Steps whose batches are left out from the start."""
    pace: Pace = PACE
    anomalies: AnomalyConfig = field(default_factory=AnomalyConfig)
    shares: dict[str, Callable[[], float]] = field(default_factory=dict)
    spend: Callable[[str], None] = lambda _: None
    """Called where time goes: to the stream, the inputs, the loss, the evaluation."""
    world: World = field(default_factory=lambda: World("fp32"))
    evaluated: list[tuple[int, dict[str, Tensor]]] = field(default_factory=list)
    began: list[dict[str, Tensor]] = field(default_factory=list)
    """What the model held when each step began."""
    said: str = ""

    def train(self, resume: str | None = None) -> Ending:
        world, model, run = self.world, build(), RunFolder(self.folder)
        for folder in (run.checkpoints, run.anomalies):
            folder.mkdir(parents=True, exist_ok=True)
        self.model = model
        stream, console = Counted(self.steps, world.rank, world.size), Console(world.rank, io.StringIO())
        stream.before = lambda: self.spend("stream")
        for step in self.left_out:
            stream.skip(SIZE * (step - 1), SIZE * step)
        optimizer = create_optimizer(model, OptimizerConfig())
        training = Training(world, model, optimizer, stream, run, console, {"world": 1})
        training.average = None if self.decay is None else Average(model, self.decay)
        self.average = training.average

        def inputs_of(batch: Batch) -> tuple[Tensor]:
            self.spend("inputs")
            values = np.sin(batch.positions[:, None] * np.array([1.0, 2.0, 3.0]))
            values[[int(position) in self.broken for position in batch.positions]] = np.nan
            return (torch.from_numpy(values).float(),)

        def loss_of(shared: nn.Module, values: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            self.spend("loss")
            self.began.append(tensors_of(model))
            return (shared(values) - 1).square().mean(dim=1), {}

        def evaluate(step: int, _: float) -> dict[str, float]:
            assert not model.training
            self.spend("evaluation")
            self.evaluated.append((step, tensors_of(model)))
            return {
                "top1": self.scores.get(step, 0.0),
                "size": sum(float(t.double().norm()) for t in tensors_of(model).values()),
            }

        try:
            start = find_start(training, resume, "starting")
            return fit(
                training,
                Objective(inputs_of, loss_of),
                self.pace,
                Options(anomalies=self.anomalies, selection=self.selection, shares=self.shares),
                learning_rate=lambda epoch: 0.1 / (1 + epoch),
                evaluate=evaluate,
                start=start,
            )
        finally:
            self.said += console.stream.getvalue()  # type: ignore[attr-defined]

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def best(self) -> str:
        return (self.folder / "checkpoints/best").read_text().strip()

    @property
    def steps_kept(self) -> list[int]:
        return sorted(int(path.name[5:]) for path in self.run.checkpoints.glob("step-*"))

    def outcome(self) -> dict[str, Any]:
        """All that a run comes to: the newest and the best checkpoint, and the lines but for what was timed."""
        best, newest = find_best(self.run.checkpoints), newest_checkpoint(self.run.checkpoints, print)
        assert best is not None
        assert newest is not None
        files = {one.path.name: {file.name: file.read_bytes() for file in one.path.iterdir()} for one in (best, newest)}
        lines = [{key: line.get(key) for key in ("step", "loss", "top1", "size")} for line in self.run.read_metrics()]
        return {"best": best.step, "newest": newest.step, "files": files, "lines": lines}


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    trial = Trial(tmp_path_factory.mktemp("undisturbed") / "run")
    assert trial.train() == Ending("done", 8, stopped_early=True)
    return trial


def test_the_best_is_named_and_spared_and_training_ends_for_lack_of_a_better_one(undisturbed: Trial):
    assert [step for step, _ in undisturbed.evaluated] == [2, 4, 6, 8]
    assert undisturbed.best == "step-00000004"
    assert undisturbed.steps_kept == [4, 8]
    assert "stopped after step 8 of 12: the last 2 evaluations did not beat top1 0.5 of step 4" in undisturbed.said
    assert undisturbed.said.count("data: ") == 1  # the account of the run
    best = find_best(undisturbed.folder / "checkpoints")
    assert best is not None
    assert best.step == 4
    published = build()
    load_weights(best, published, averaged=True)
    assert_equal(tensors_of(published), dict(undisturbed.evaluated[1][1]))
    assert_equal(
        tensors_of(undisturbed.model), load_file(undisturbed.folder / "checkpoints/step-00000008/model.safetensors")
    )


def test_a_run_that_ended_early_has_ended(undisturbed: Trial):
    before, steps = undisturbed.outcome(), len(undisturbed.began)
    again = replace(undisturbed, said="", evaluated=[], began=[])
    assert again.train() == Ending("done", 8, stopped_early=True)
    assert again.outcome() == before
    assert (again.began, again.evaluated) == ([], [])
    assert "stopped after step 8 of 12: " in again.said
    assert steps == 8


def test_more_patience_goes_on_and_a_run_that_reaches_its_end_did_not_stop_early(tmp_path: Path):
    trial = Trial(tmp_path / "run")
    trial.train()
    trial.selection = Selection("top1", patience=3)
    assert trial.train() == Ending("done", 10, stopped_early=True)
    trial.selection = Selection("top1", patience=4)
    assert trial.train() == Ending("done", 12)
    assert trial.best == "step-00000012"
    assert trial.steps_kept == [12]
    trial.selection = Selection("top1", higher_is_better=False, patience=1)
    assert trial.train() == Ending("done", 12)  # nothing is left to be stopped
    assert not (trial.folder / "checkpoints/best").exists()
    assert "warning: the checkpoint of the best evaluation, of step 10, is gone; `best` names none until" in trial.said


def test_without_a_choice_nothing_is_saved_for_it(tmp_path: Path):
    trial = Trial(tmp_path / "run", selection=None, decay=None)
    assert trial.train() == Ending("done", 12)
    assert sorted(path.name for path in trial.run.checkpoints.iterdir()) == ["latest", "step-00000012"]
    assert "average" not in (trial.folder / "checkpoints/step-00000012/state.json").read_text()
    assert find_best(trial.run.checkpoints) is None


@pytest.mark.parametrize("broken", [(), (3,)])
def test_the_average_is_that_of_a_plain_loop_without_the_steps_that_were_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: tuple[int, ...]
):
    monkeypatch.setattr(Watch, "_describe", lambda *_: None)
    trial = Trial(tmp_path / "run", steps=6, selection=None, broken=frozenset(SIZE * step - 1 for step in broken))
    trial.pace = replace(trial.pace, evaluate_steps=1)
    trial.train()
    expected = {name: tensor.double() for name, tensor in trial.began[0].items()}
    after = [*trial.began[1:], tensors_of(trial.model)]
    for number, (tensors, (step, evaluated)) in enumerate(zip(after, trial.evaluated, strict=True), start=1):
        assert step == number
        if is_skipped := number in broken:
            assert_equal(tensors, trial.began[number - 1])
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                expected[name] = tensor.double()
            elif not is_skipped:
                expected[name] = 0.75 * expected[name] + 0.25 * tensor.double()
            torch.testing.assert_close(evaluated[name].double(), expected[name], rtol=1e-5, atol=1e-6)
    assert trial.average is not None
    assert trial.average.state() == {"updates": 6 - len(broken)}


def test_a_part_of_the_time_is_told_apart_from_waiting_and_evaluations_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As of a teacher, who is asked for each batch ahead of its step, and also by evaluations."""
    now = taught = 0.0
    teaching, other = {"inputs": 3.0, "evaluation": 50.0}, {"stream": 0.5, "loss": 1.5, "evaluation": 100.0}

    def spend(where: str) -> None:
        nonlocal now, taught
        taught += teaching.get(where, 0.0)
        now += teaching.get(where, 0.0) + other.get(where, 0.0)

    monkeypatch.setattr(meter.time, "perf_counter", lambda: now)
    trial = Trial(tmp_path / "run", steps=8, selection=None, spend=spend, shares={"teacher": lambda: taught})
    trial.pace = replace(trial.pace, evaluate_steps=4)
    trial.train()
    lines = [line for line in trial.run.read_metrics() if EVALUATED not in line]
    # Each step takes 1.5 s, beside which the batch after it is waited for and taught; none comes after the last.
    assert [(line["step"], line["teacher"], line["data_wait"]) for line in lines] == [
        (3, 9 / 15, 1.5 / 15),
        (6, 6 / 10, 1 / 10),
        (8, 3 / 6.5, 0.5 / 6.5),
    ]
    assert "the teacher took 57.1% of the time" in trial.said  # 18 of 31.5 s


class CrashError(OSError):
    """Stands for a kill."""


def crash(monkeypatch: pytest.MonkeyPatch, point: str, count: int) -> None:
    """Let the count-th call at a point fail: before it has done anything, or when it has done all."""
    name, _, when = point.partition(" ")
    owner: Any = {"append_metrics": RunFolder, "update": Average, "move_best": fitting}.get(name, saver)
    owner = Trial if name == "score" else owner
    function: Callable[..., Any] = getattr(owner, name)
    calls = 0

    @functools.wraps(function)
    def patched(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and when == "before":
            raise CrashError(point)
        result = function(*arguments, **named)
        if calls == count and when == "after":
            raise CrashError(point)
        return result

    monkeypatch.setattr(owner, name, patched)


# Points, and which of the calls there are tried: all, or every second or third.
POINTS = {
    "save_checkpoint before": 1,
    "move_latest before": 2,
    "move_latest after": 2,
    "append_metrics before": 2,
    "append_metrics after": 1,
    "move_best after": 1,
    "update after": 3,
}


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_any_moment_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Trial, point: str
):
    expected, crashes = undisturbed.outcome(), 0
    for count in range(1, 100, POINTS[point]):
        trial = Trial(tmp_path / str(count))
        with monkeypatch.context() as patch:
            crash(patch, point, count)
            try:
                trial.train()
            except CrashError:
                crashes += 1
            else:
                break
        assert trial.train() == Ending("done", 8, stopped_early=True)
        assert trial.outcome() == expected, count
    assert crashes > 1, "the point is not where it was"


def test_the_pointer_is_put_right_at_the_start(tmp_path: Path, undisturbed: Trial):
    trial = Trial(tmp_path / "run")
    trial.train()
    for wrong in ("step-00000008\n", "step-00000002\n", None):
        pointer = trial.folder / "checkpoints/best"
        pointer.unlink()
        if wrong is not None:
            pointer.write_text(wrong)
        trial.train()
        assert trial.outcome() == undisturbed.outcome()


def test_of_every_checkpoint_that_may_be_gone_on_from_the_best_until_then_is_kept(tmp_path: Path):
    trial = Trial(tmp_path / "run", selection=Selection("top1"), scores={2: 0.5, 4: 0.1, 6: 0.1, 8: 0.75, 10: 0.1})
    trial.pace = replace(trial.pace, keeping=Keeping(3, 0), checkpoint_steps=100)
    trial.train()
    assert trial.best == "step-00000008"
    assert trial.steps_kept == [8, 10, 12]
    trial = replace(trial, folder=tmp_path / "other", steps=10)
    trial.train()
    assert trial.steps_kept == [2, 6, 8, 10]  # of step 6 that of step 2 was the best
    for damaged in (8, 10):
        (folder_of_step(trial.run.checkpoints, damaged) / "state.json").write_text("{}")
    trial.scores = {8: 0.1, 10: 0.2}
    trial.train()
    assert trial.best == "step-00000002"
    best = find_best(trial.run.checkpoints)
    assert best is not None
    assert best.step == 2


def test_going_back_takes_the_average_and_the_best_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Steps 7 and 8 are not finite: the run goes back to the checkpoint after step 6 and leaves their batches out."""
    monkeypatch.setattr(Watch, "_describe", lambda *_: None)
    options: dict[str, Any] = {"selection": Selection("top1"), "scores": {2: 0.1, 6: 0.3, 8: 0.9, 10: 0.2, 12: 0.1}}
    trial = Trial(tmp_path / "run", **options, broken=frozenset({6 * SIZE, 8 * SIZE - 1}))
    trial.anomalies = AnomalyConfig(most_skipped=2, within_steps=10)
    assert trial.train().step == 10
    assert "going back to step-00000006" in trial.said
    plain = Trial(tmp_path / "plain", **options, left_out=(7, 8))
    assert plain.train().step == 10
    assert trial.best == plain.best == "step-00000008"
    for name in ("model", "optimizer", "average"):
        found, expected = (
            load_file(one.folder / f"checkpoints/step-00000010/{name}.safetensors") for one in (trial, plain)
        )
        assert_equal(found, expected)


def test_a_run_that_goes_on_from_another_ones_checkpoint_has_its_own_best(tmp_path: Path, undisturbed: Trial):
    trial = Trial(tmp_path / "run", scores={8: 0.9})
    assert trial.train(resume=str(undisturbed.folder)) == Ending("done", 12)
    assert [step for step, _ in trial.evaluated] == [8, 10, 12]
    assert trial.best == "step-00000008"
    assert trial.steps_kept == [8, 12]


def test_an_average_that_is_not_there_and_one_that_nobody_wants(tmp_path: Path):
    trial = Trial(tmp_path / "run", decay=None, steps=4)
    trial.train()
    with pytest.raises(ValueError, match=r"step-00000004 holds no average of the weights, which this run keeps"):
        replace(trial, decay=0.9).train()
    trial = Trial(tmp_path / "averaged", steps=4)
    trial.train()
    again = replace(trial, decay=None, said="")
    again.train()
    assert f"note: the average of the weights in {trial.folder}/checkpoints/step-00000004 is left behind" in again.said


def test_a_metric_that_the_evaluation_does_not_give(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"chosen by top5, which the evaluation of step 2 does not give; .* top1, size"
    ):
        Trial(tmp_path / "run", selection=Selection("top5")).train()


def test_statistics_that_are_not_finite_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trial = Trial(tmp_path / "run")
    update = Average.update

    def spoil(average: Average, applied: Tensor) -> None:
        update(average, applied)
        trial.model.get_buffer("1.running_var")[2] = float("inf")

    monkeypatch.setattr(Average, "update", spoil)
    with pytest.raises(FloatingPointError, match=r"step 2: weights are not finite \(1\.running_var\)"):
        trial.train()


def test_parameters_without_state_of_the_optimizer_go_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of the first checkpoint, where every step was skipped by an optimizer that makes its state with the first one."""
    monkeypatch.setattr(Watch, "_describe", lambda *_: None)

    def sgd(model: nn.Module, _: OptimizerConfig) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": list(model.named_parameters())}], lr=0.1, momentum=0.9)

    monkeypatch.setattr(sys.modules[__name__], "create_optimizer", sgd)
    trial = Trial(tmp_path / "run", broken=frozenset({0, SIZE}), steps=3)
    trial.train()
    state = json.loads((trial.folder / "checkpoints/step-00000003/state.json").read_text())
    assert "without_moments" not in state
    halted = Trial(tmp_path / "halted", broken=frozenset({0, SIZE}), steps=3)
    with monkeypatch.context() as patch:
        crash(patch, "append_metrics before", 1)
        with pytest.raises(CrashError):
            halted.train()
    assert newest_step(halted.run.checkpoints) == 2
    state = json.loads((halted.folder / "checkpoints/step-00000002/state.json").read_text())
    assert state["without_moments"] == ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]
    halted.train()
    assert halted.outcome() == trial.outcome()


def test_a_stop_is_agreed_on_after_as_many_steps_as_the_world_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trial = Trial(tmp_path, selection=None)
    monkeypatch.setattr(loop, "steps_between_questions", lambda _: 5)
    trial.spend = lambda what: (tmp_path / "stop").touch() if what == "loss" and len(trial.began) > 5 else None
    assert trial.train() == Ending("preempted", 10)
    trial.spend = lambda _: None
    assert trial.train() == Ending("done", 12)


def together(folder: Path) -> None:
    """Train on several processes, without a break in `whole` and with one in `broken`; each notes what it evaluated."""
    with World("fp32") as world:
        trial = Trial(folder / "whole", world=world, selection=Selection("top1"))
        trial.pace = replace(trial.pace, accumulate=2)
        trial.train()
        sizes = [float(sum(tensor.double().norm() for tensor in tensors.values())) for _, tensors in trial.evaluated]
        statistics = trial.model.get_buffer("1.running_mean").tolist()
        broken = replace(trial, folder=folder / "broken", steps=12)
        (folder / "broken").mkdir(exist_ok=True)
        if world.rank == 0:
            (folder / "broken/stop").touch()
        world.barrier()
        assert broken.train().status == "preempted"
        world.barrier()  # as between one start of a script and the next
        broken.train()
        (folder / f"rank-{world.rank}.json").write_text(json.dumps({"sizes": sizes, "statistics": statistics}))


def test_processes_evaluate_and_save_the_same_statistics(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert len(first["sizes"]) == 6
    assert first == second
    whole, broken = Trial(tmp_path / "whole"), Trial(tmp_path / "broken")
    assert broken.outcome() == whole.outcome()
    evaluated = [line["size"] for line in whole.run.read_metrics() if EVALUATED in line]
    assert evaluated == first["sizes"]


if __name__ == "__main__":
    together(Path(sys.argv[1]))
