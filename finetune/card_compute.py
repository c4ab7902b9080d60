"""What a run's training took, by its own log: time, device-hours, images, and at most how much energy."""

import math
from dataclasses import dataclass
from typing import Any

from finetune.card_facts import Row, plain
from finetune.finished_run import FinishedRun
from finetune.report_facts import number
from launch.console import format_duration
from launch.run_folder import RunFolder
from launch.strict_json import read_json
from pretrain.distill_config import OWN, DistillConfig

_BOARD_WATTS = {
    # NVIDIA H200 Tensor Core GPU data sheet: SXM up to 700 W, NVL up to 600 W.
    "NVIDIA H200": 700,
    "NVIDIA H200 NVL": 600,
    # NVIDIA H100 Tensor Core GPU data sheet: SXM up to 700 W, NVL 350 to 400 W; product brief PB-11133-001: PCIe 350 W.
    "NVIDIA H100 80GB HBM3": 700,
    "NVIDIA H100 NVL": 400,
    "NVIDIA H100 PCIe": 350,
    # NVIDIA A100 Tensor Core GPU data sheet (1521051-r2): SXM 400 W, PCIe 250 W with 40 GB and 300 W with 80 GB.
    "NVIDIA A100-SXM4-40GB": 400,
    "NVIDIA A100-SXM4-80GB": 400,
    "NVIDIA A100-PCIE-40GB": 250,
    "NVIDIA A100 80GB PCIe": 300,
    # NVIDIA V100 Tensor Core GPU data sheet: SXM2 300 W, PCIe 250 W.
    "Tesla V100-SXM2-16GB": 300,
    "Tesla V100-SXM2-32GB": 300,
    "Tesla V100-PCIE-16GB": 250,
    "Tesla V100-PCIE-32GB": 250,
    # NVIDIA L4, L40 and L40S data sheets: 72 W, 300 W and 350 W.
    "NVIDIA L4": 72,
    "NVIDIA L40": 300,
    "NVIDIA L40S": 350,
    # NVIDIA A10 data sheet: 150 W. NVIDIA A40 product brief PB-09976-001: 300 W. NVIDIA RTX A6000 data sheet: 300 W.
    "NVIDIA A10": 150,
    "NVIDIA A40": 300,
    "NVIDIA RTX A6000": 300,
    # NVIDIA T4 data sheet: 70 W.
    "Tesla T4": 70,
    # Total graphics power on the pages of GeForce RTX 4090 and GeForce RTX 3090 at nvidia.com: 450 W and 350 W.
    "NVIDIA GeForce RTX 4090": 450,
    "NVIDIA GeForce RTX 3090": 350,
}
"""Watts at full power, by the name that CUDA gives the board; a part of one, as MIG makes, has another name."""

_CORE_WATTS = 12
"""Of a core of any CPU: the default of Green Algorithms' calculator (Lannelongue, Grealey and Inouye 2021)."""


@dataclass(frozen=True)
class Compute:
    """What one training took, over the steps that its log tells the speed of.

    `device_seconds` are summed over processes, one on a GPU each; `unmeasured` steps have no speed in the log, and
    `evaluation` seconds come on top.
    """

    device: str
    is_on_gpu: bool
    threads: int
    processes: tuple[int, ...]
    seconds: float
    device_seconds: float
    evaluation: float
    last_step: int
    steps: int
    unmeasured: int
    batch_size: int

    @property
    def hours(self) -> float:
        """GPU-hours, or core-hours: of each process as many as it has threads."""
        return self.device_seconds / 3600 * (1 if self.is_on_gpu else self.threads)

    @property
    def unit(self) -> str:
        return "GPU-hours" if self.is_on_gpu else "CPU core-hours"


@dataclass(frozen=True)
class ComputeFacts:
    """Rows for people, and a sentence on what they leave out."""

    rows: tuple[Row, ...]
    left_out: str


def compute_facts(run: FinishedRun) -> ComputeFacts | None:
    """What training took, and that of a teacher that the run has trained first; None where the log does not tell."""
    # Of a run that went on from another's checkpoint, the steps before are in the other's log.
    config = run.config
    own = measure_compute(run.folder, config.batch_size, begins_late=config.resume is not None)
    if own is None:
        return None
    rows = [*_rows(own), ("Energy", energy(own))]
    if isinstance(config, DistillConfig) and config.teacher == OWN:
        teacher = RunFolder(run.folder.path / "teacher")
        theirs = measure_compute(teacher, config.own_teacher.batch_size or config.batch_size, begins_late=False)
        if theirs is not None:
            rows += [(f"{name}, its teacher", value) for name, value in [*_rows(theirs), ("Energy", energy(theirs))]]
    step, left_out = run.checkpoint.step, _left_out(own, went_on=config.resume is not None)
    if own.last_step > step:
        left_out += f" This is the whole run, to step {own.last_step:,}; the model is that of step {step:,}."
    return ComputeFacts(tuple(rows), left_out)


def measure_compute(folder: RunFolder, batch_size: int, *, begins_late: bool) -> Compute | None:
    """Sum up metrics.jsonl, which holds each step once, however often the run was interrupted.

    A line tells how many images a second went through the steps since the line before, with evaluation left out; that
    speed is taken for all of them. `begins_late`: the first step of the log is not the run's first. None without a line
    that has a speed.
    """
    lines = folder.read_metrics()
    training = [line for line in lines if "loss" in line]
    if not training:
        return None
    found = read_json(folder.environment)
    before = _first_step(training, begins_late=begins_late)
    begin, seconds, device_seconds, measured = before, 0.0, 0.0, 0
    processes: list[int] = []
    for line in training:
        step, rate = int(line["step"]), number(line.get("images_per_second"))
        if rate > 0:
            taken = (step - before) * batch_size / rate
            # Runs of before this was logged had as many all the time as environment.json says, as far as is known.
            count = int(line.get("processes", found["world"]))
            seconds, device_seconds, measured = (
                seconds + taken,
                device_seconds + taken * count,
                measured + step - before,
            )
            processes.append(count)
        before = step
    last = max(int(line["step"]) for line in lines)
    evaluation = [value for line in lines if math.isfinite(value := number(line.get("evaluation_seconds")))]
    if not processes:
        return None
    return Compute(
        found["device"],
        any("transfer_wait" in line for line in training),  # what only a GPU waits for
        found["threads"],
        tuple(sorted(set(processes))),
        seconds,
        device_seconds,
        evaluation=math.fsum(evaluation),
        last_step=last,
        steps=last - begin,
        unmeasured=last - begin - measured,
        batch_size=batch_size,
    )


def energy(compute: Compute) -> str:
    """At most how much the boards drew, about how much CPU cores did, or why that cannot be said."""
    if not compute.is_on_gpu:
        used = compute.hours * _CORE_WATTS / 1000
        return (
            f"about {used:.3g} kWh, at the {_CORE_WATTS} W a core that Green Algorithms (doi:10.1002/advs.202100707) "
            "takes for a CPU of which nothing is known, without the rest of the machine"
        )
    watts = _BOARD_WATTS.get(compute.device)
    if watts is None:
        return f"no estimate: the board power of {plain(compute.device)} is not known here"
    used = compute.hours * watts / 1000
    return f"at most {used:.3g} kWh, at the board's full power of {watts:,} W, without the rest of the machine"


def _first_step(training: list[dict[str, Any]], *, begins_late: bool) -> int:
    """The step that the first line's steps come after; of a log that begins late as far before it as the second is
    behind it, at most.
    """
    if not begins_late or len(training) < 2:
        return 0
    first, second = int(training[0]["step"]), int(training[1]["step"])
    return max(0, 2 * first - second)


def _rows(compute: Compute) -> list[Row]:
    counts = compute.processes
    world = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    each = "" if compute.is_on_gpu else f" of {compute.threads:,} thread{'s' * (compute.threads != 1)}"
    device = plain(compute.device) if compute.is_on_gpu else f"CPUs with {plain(compute.device)}"
    on = f"{world} process{'es' * (counts[-1] != 1)}{each} on {device}"
    images = compute.steps * compute.batch_size
    return [
        ("Time in training", format_duration(compute.seconds)),
        ("Compute", f"{compute.hours:,.3g} {compute.unit}, by {on}"),
        ("Images seen", f"{images:,}, in {compute.steps:,} steps of {compute.batch_size:,}"),
    ]


def _left_out(compute: Compute, *, went_on: bool) -> str:
    parts = [f"evaluation ({format_duration(compute.evaluation)})" if compute.evaluation else "evaluation"]
    parts.append("starting up")
    parts.append("what interruptions have cost")
    if went_on:
        parts.append("the run that this one went on from")
    if compute.unmeasured:
        parts.append(f"{compute.unmeasured:,} steps whose speed was not logged")
    cores = "" if compute.is_on_gpu else ", and the processes that load data"
    return f"By the speeds in the run's own log. Left out: {', '.join(parts)}{cores}."
