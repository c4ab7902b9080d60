"""How long a run would take on the machines that it is planned for, from what a few of its steps took here."""

from dataclasses import asdict, dataclass
from typing import Any

from launch.console import format_duration
from pretrain.findings import Finding, counted


@dataclass(frozen=True)
class Prognosis:
    """Of a run of so many steps by so many processes.

    compute: seconds of a step, as rehearsed. load: seconds in which a process's loader fills its part of a batch,
    which happens at the same time. traffic: seconds that putting gradients together takes beyond what the rehearsal's
    own processes took, if nothing of it is hidden behind the backward pass; None where it was not measured.
    measured_on: the device.
    """

    steps: int
    processes: int
    compute: float
    load: float
    traffic: float | None
    measured_on: str

    @property
    def step(self) -> float:
        """Seconds of a step: of what takes longer, the computing or the loading."""
        return max(self.compute, self.load)

    @property
    def hours(self) -> float:
        """Of the run, its gradients' traffic hidden."""
        return self.steps * self.step / 3600

    @property
    def most_hours(self) -> float:
        """Of the run, nothing of that traffic hidden."""
        return self.steps * max(self.compute + (self.traffic or 0.0), self.load) / 3600

    @property
    def sentence(self) -> str:
        """For people, with all that was assumed."""
        binds = "the loader binds" if self.load > self.compute else "the step binds"
        told = [
            f"{self.steps:,} steps of {self.step * 1e3:,.1f} ms ({binds}): {format_duration(self.hours * 3600)} on "
            f"{counted(self.processes, 'process')}, {self.hours * self.processes:,.2f} GPU-hours"
        ]
        if self.processes > 1:
            told.append("scaling taken as linear")
            if self.traffic is None:
                told.append("what gradients add was not measured")
            elif self.traffic == 0:
                told.append("what gradients add is in it")
            else:
                longest = format_duration(self.most_hours * 3600)
                told.append(f"with all that gradients can add, {self.traffic * 1e3:,.1f} ms a step: {longest}")
        return "; ".join([*told, "evaluations left out", f"measured on {self.measured_on}"])

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        more = {"step": self.step, "hours": self.hours, "most_hours": self.most_hours}
        return {**asdict(self), **more, "gpu_hours": self.hours * self.processes}


def judge_hours(prognosis: Prognosis, hours: float | None) -> Finding:
    """Whether the run ends within the hours that there are."""
    measured = prognosis.sentence
    if hours is None:
        return Finding("ok", "duration", measured)
    needed = f"{hours:g} hours at most"
    if prognosis.most_hours <= hours:
        return Finding("ok", "duration", measured, needed)
    if prognosis.hours <= hours:
        fix = "a larger --batch-size or a faster network, if gradients turn out not to be hidden"
        return Finding("warning", "duration", measured, needed, fix)
    times = prognosis.hours / hours
    fix = f"{times:.1f} times the GPUs, fewer --epochs, or several jobs: the same command goes on with a stopped run"
    return Finding("problem", "duration", measured, needed, fix)
