"""Time and device-hours follow from the log alone, whatever has happened to the run."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.card_compute import Compute, compute_facts, energy, measure_compute
from finetune.finished_run import FinishedRun
from launch.run_folder import RunFolder
from pretrain.backbone_config import BackboneConfig
from pretrain.config import EncoderConfig, OptimizerConfig
from pretrain.distill_config import DistillConfig
from pretrain.mae_config import MaeConfig

ENCODER = EncoderConfig("vit_tiny_patch16_224", (8, 8), (2, 2), width=24, depth=2, heads=2)
MAE = MaeConfig(encoder=ENCODER, epochs=100.0, batch_size=100, data="pets", out="out")
DISTILL = DistillConfig(
    encoder=BackboneConfig("vit_tiny_patch16_224", (8, 8), (2, 2), width=24, depth=2, heads=2),
    epochs=10.0,
    batch_size=100,
    optimizer=OptimizerConfig(warmup_epochs=1.0),
    data="pets",
    out="out",
    teacher="own",
)
H100 = "NVIDIA H100 80GB HBM3"

Finish = Callable[..., FinishedRun]


def write_log(run: RunFolder, *lines: dict[str, Any], device: str = "AVX2", world: int = 1, threads: int = 2) -> None:
    run.path.mkdir(exist_ok=True)
    run.environment.write_text(json.dumps({"device": device, "world": world, "threads": threads}))
    for line in lines:
        run.append_metrics(line)


def trained(step: int, rate: float | None, **more: Any) -> dict[str, Any]:
    return {"step": step, "epoch": step / 10, "loss": 1.0, "images_per_second": rate, **more}


def measured(tmp_path: Path, *lines: dict[str, Any], begins_late: bool = False, **environment: Any) -> Compute:
    write_log(RunFolder(tmp_path / "run"), *lines, **environment)
    found = measure_compute(RunFolder(tmp_path / "run"), 100, begins_late=begins_late)
    assert found is not None
    return found


def test_each_window_counts_at_its_own_speed(tmp_path: Path):
    found = measured(
        tmp_path, trained(10, 100.0), trained(30, 50.0), {"step": 30, "knn_top1": 0.5, "evaluation_seconds": 7.0}
    )
    assert (found.seconds, found.evaluation) == (10 * 100 / 100 + 20 * 100 / 50, 7.0)
    assert (found.steps, found.unmeasured) == (30, 0)
    assert found.unit == "CPU core-hours"
    assert found.hours == pytest.approx(50 * 2 / 3600)


def test_a_run_on_a_changing_number_of_processes(tmp_path: Path):
    found = measured(tmp_path, trained(10, 100.0, processes=8), trained(20, 50.0, processes=4), world=4)
    assert found.device_seconds == 10 * 8 + 20 * 4
    assert found.processes == (4, 8)


def test_what_older_runs_did_not_log_is_taken_from_the_environment(tmp_path: Path):
    assert measured(tmp_path, trained(10, 100.0), world=3).device_seconds == 30


def test_steps_without_a_speed_are_told_of(tmp_path: Path):
    found = measured(tmp_path, trained(10, 100.0), trained(20, None), {"step": 25, "evaluation_seconds": 1.0})
    assert (found.seconds, found.steps, found.unmeasured) == (10.0, 25, 15)


def test_a_run_that_went_on_from_another_counts_its_own_steps(tmp_path: Path):
    found = measured(tmp_path, trained(510, 100.0), trained(520, 100.0), begins_late=True)
    assert (found.seconds, found.steps) == (20.0, 20)


def test_a_log_without_speeds_tells_nothing(tmp_path: Path):
    write_log(RunFolder(tmp_path / "run"), trained(10, None))
    assert measure_compute(RunFolder(tmp_path / "run"), 100, begins_late=False) is None


def test_energy_is_a_bound_by_the_boards_power(tmp_path: Path):
    hour = trained(3600, 100.0, transfer_wait=0.0)
    found = measured(tmp_path, hour, device=H100, world=2)
    assert (found.hours, found.unit) == (2.0, "GPU-hours")
    assert energy(found) == "at most 1.4 kWh, at the board's full power of 700 W, without the rest of the machine"
    part = dataclasses.replace(found, device=f"{H100} MIG 1g.10gb")
    assert energy(part) == f"no estimate: the board power of {H100} MIG 1g.10gb is not known here"
    on_cores = dataclasses.replace(found, is_on_gpu=False, threads=4)
    assert energy(on_cores).startswith(f"about {found.hours * 4 * 12 / 1000:.3g} kWh, at the 12 W a core that Green")


def test_what_the_card_says(tmp_path: Path, finish: Finish):
    run = finish(tmp_path / "run", MAE)
    write_log(run.folder, trained(3600, 100.0), {"step": 3600, "knn_top1": 0.5, "evaluation_seconds": 61.0})
    facts = compute_facts(run)
    assert facts is not None
    assert dict(facts.rows) == {
        "Time in training": "1:00:00",
        "Compute": "2 CPU core-hours, by 1 process of 2 threads on CPUs with AVX2",
        "Images seen": "360,000, in 3,600 steps of 100",
        "Energy": "about 0.024 kWh, at the 12 W a core that Green Algorithms (doi:10.1002/advs.202100707) takes for a "
        "CPU of which nothing is known, without the rest of the machine",
    }
    assert facts.left_out == (
        "By the speeds in the run's own log. Left out: evaluation (0:01:01), starting up, what interruptions have "
        "cost, and the processes that load data. This is the whole run, to step 3,600; the model is that of step 40."
    )


def test_a_teacher_that_the_run_trained_is_counted_too(tmp_path: Path, finish: Finish):
    run = finish(tmp_path / "run", DISTILL)
    write_log(run.folder, trained(10, 100.0))
    write_log(RunFolder(run.folder.path / "teacher"), trained(36, 1.0))
    facts = compute_facts(run)
    assert facts is not None
    assert dict(facts.rows)["Time in training, its teacher"] == "1:00:00"


def test_a_run_without_a_log_tells_nothing(tmp_path: Path, finish: Finish):
    assert compute_facts(finish(tmp_path / "run", MAE)) is None
