"""The doctor's round: every check in its order, on every process of the launch; rank 0 tells of what was found."""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from data_pipeline.free_memory import free_memory
from launch.atomic import write_json
from launch.console import Console
from launch.environment import environment
from pretrain.check_machine import (
    Machine,
    clock_differences,
    hosts_of,
    judge_clocks,
    judge_gpus,
    judge_shared_memory,
    judge_versions,
    this_machine,
)
from pretrain.check_network import Traffic, judge_gradients, judge_network, measure_traffic
from pretrain.check_plan import check_plan, fitting_batch, read_factor
from pretrain.check_rates import Loaded, Read, judge_loading, judge_reading, measure_loading, measure_reading
from pretrain.check_storage import (
    existing_ancestor,
    explain,
    judge_file_system,
    judge_saving,
    judge_sharing,
    judge_space,
    probe_folder,
    try_file_system,
    try_together,
)
from pretrain.distill_config import OWN, DistillConfig
from pretrain.doctor_config import PlannedConfig, Visit, training_config
from pretrain.findings import Finding, conclusion, counted, findings_table, works
from pretrain.out_of_memory import OutOfMemoryError
from pretrain.planned_run import PlannedRun, plan_run
from pretrain.prognosis import Prognosis, judge_hours
from pretrain.rehearsal import Rehearsed, gpu_memory, judge_memory, rehearse, size_of_rehearsal
from pretrain.session import LIBRARIES, MENDED_BY_USERS, loader_workers, told
from pretrain.world import World

Value = TypeVar("Value")


class _Measured(NamedTuple):
    """What the checks after the rehearsal go by."""

    loaded: Loaded
    read: Read
    rehearsed: Rehearsed
    write_rate: float | None


class Examination:
    """One process's part of it.

    Args:
        recipe: its name.
        visit: the options.
        world: of this launch, which may have fewer processes than the run is to have.
        console: on which rank 0 tells what takes time, and what was found.
    """

    def __init__(self, recipe: str, visit: Visit, world: World, console: Console) -> None:
        self._recipe, self._visit, self._world, self._console = recipe, visit, world, console
        self._config: PlannedConfig = training_config(visit)
        self._processes = visit.nodes * visit.gpus
        self._workers = loader_workers(self._config.workers, world)
        self._machine: Machine = this_machine()
        self._findings: list[Finding] = []
        self._prognosis: Prognosis | None = None
        self._said: tuple[str, ...] = ()

    def run(self) -> bool:
        """Whether the run would work.

        Raises:
            OSError: the report cannot be written.
            SystemExit: with several processes, of which one failed in the rehearsal.
        """
        say, world = self._console.say, self._world
        say(f"for {self._visit.nodes} x {self._visit.gpus} processes, looked at with {world.size} on {self._only_on}")
        self._look_at_machines()
        traffic = measure_traffic(world)
        self._add(judge_network(traffic, self._visit.nodes, self._processes))
        planned = self._try("data", lambda: plan_run(self._config))
        with ExitStack() as stack:
            folder, write_rate = self._look_at_storage(stack)
            if planned is not None:
                self._look_at_plan(planned, folder, write_rate, traffic)
        self._tell()
        return works(self._findings)

    @property
    def _on(self) -> str:
        device = self._world.device
        if device.type == "cuda":
            return torch.cuda.get_device_name(device)
        return f"a CPU of {self._machine.host}"

    @property
    def _only_on(self) -> str:
        """The same, with what it does not tell of."""
        return self._on if self._world.device.type == "cuda" else f"{self._on}, which tells nothing of a GPU"

    def _add(self, *findings: Finding) -> None:
        self._findings += findings

    def _try(self, what: str, function: Callable[[], Value]) -> Value | None:
        """Of every process; None on all where one fails in a way that a user can mend, which is then a problem."""
        value, errors = None, []
        try:
            value = function()
        except MENDED_BY_USERS as error:
            errors = [f"{self._machine.host}: {told(error)}" if self._world.size > 1 else told(error)]
        errors = self._world.gather(errors)
        if errors:
            self._add(Finding("problem", what, "not to be had", "", errors[0]))
            return None
        return value

    def _look_at_machines(self) -> None:
        machines = self._world.gather([self._machine])
        self._add(judge_versions(machines), *judge_gpus(machines, self._visit.gpus, self._config.precision))
        self._add(judge_clocks(clock_differences(self._world)))

    def _look_at_storage(self, stack: ExitStack) -> tuple[Path, float | None]:
        """A folder for the rehearsal, which rank 0 removes, and bytes a second written there, if a run may be there."""
        out, world = Path(self._config.out), self._world
        places: list[tuple[Path, bool]] = []
        if world.rank == 0:
            try:
                if out.exists() and not out.is_dir():
                    raise NotADirectoryError(0, "it is a file")
                places = [(stack.enter_context(probe_folder(out)), True)]
            except OSError as error:
                self._add(explain(error, out))
                places = [(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="doctor-"))), False)]
        ((folder, is_there),) = world.gather(places)
        if not is_there:
            return folder, None
        seen = try_together(world, folder)
        found = self._try("file system", lambda: try_file_system(folder) if world.rank == 0 else None)
        if world.rank > 0 or found is None:
            return folder, None
        self._add(judge_file_system(found, folder.parent))
        if world.size > 1:
            self._add(judge_sharing(seen))
        return folder, found.write_rate

    def _look_at_plan(
        self, planned: PlannedRun, folder: Path, write_rate: float | None, traffic: Traffic | None
    ) -> None:
        self._add(*check_plan(planned, self._processes))
        batch = fitting_batch(planned, self._processes)
        rows = batch // self._processes
        for machine in hosts_of(self._world.gather([self._machine])):
            ring = planned.ring_bytes(rows, self._workers)
            self._add(judge_shared_memory(machine, ring, self._visit.gpus))
        self._console.say("reading and decoding for some seconds, as the run's loader does")
        read = self._try("reading", lambda: measure_reading(planned.parts[0], planned.plan))
        loaded = self._try("loader", lambda: self._load(planned, batch))
        rehearsed = self._rehearse(planned, rows, folder)
        if read is None or loaded is None or rehearsed is None:
            return
        slowest = min(self._world.gather([loaded]), key=lambda one: one.rate)
        self._judge(planned, batch, _Measured(slowest, read, rehearsed, write_rate), traffic)

    def _load(self, planned: PlannedRun, batch: int) -> Loaded:
        rank = self._world.rank % self._processes
        stream = planned.stream(batch, rank, self._processes, self._workers, device=self._world.device)
        return measure_loading(stream, self._workers)

    def _rehearse(self, planned: PlannedRun, rows: int, folder: Path) -> Rehearsed | None:
        world, config = self._world, self._config
        size = size_of_rehearsal(planned, rows, world)
        if size is None:
            fix = "give this command where the GPU is: this machine has too little memory for such a model"
            self._add(Finding("warning", "rehearsal", "none: neither memory nor times are known", "", fix))
            return None
        cut = "" if size.rows == rows else f" instead of {rows:,}: a CPU would take minutes for a step"
        self._console.say(f"rehearsing steps of the run, with {counted(size.rows, 'image')} in each process{cut}")
        if isinstance(config, DistillConfig) and config.teacher == OWN:
            fix = "expect a step to take longer by the teacher's forward pass, and the teacher's own training before it"
            self._add(Finding("warning", "teacher", "--teacher own: not rehearsed, the student alone was", "", fix))
        try:
            rehearsed = rehearse(self._recipe, planned, world, folder / "run", size)
        except MENDED_BY_USERS as error:
            is_memory = isinstance(error, OutOfMemoryError)
            measured = "a step does not fit" if is_memory else "the run ends with an error"
            self._add(Finding("problem", "memory" if is_memory else "rehearsal", measured, "", told(error)))
            if world.size == 1:
                return None
            if world.rank > 0:
                raise
            self._tell()  # the other processes wait for a step that will not come: the launcher ends them
            raise SystemExit(1) from error
        self._said = rehearsed.said
        is_shared = planned.is_shared_out and world.size < self._processes
        self._add(judge_memory(rehearsed, gpu_memory(world.device), rows, is_shared=is_shared))
        return rehearsed

    def _judge(self, planned: PlannedRun, batch: int, found: _Measured, traffic: Traffic | None) -> None:
        """What the rates that were measured come to."""
        config, gpus, processes, on = self._config, self._visit.gpus, self._processes, f"on {self._on}"
        rehearsed = found.rehearsed
        rows, steps = batch // processes, planned.steps(batch)
        step, times = rehearsed.step_seconds(rows), read_factor(processes, planned.plan.lanes)
        self._add(
            judge_loading(found.loaded, rehearsed.rate, gpus, self._machine.cores, measured_on=on),
            judge_reading(found.read, rehearsed.rate, gpus, read_factor=times, memory=free_memory(), measured_on=on),
        )
        added = None
        if traffic is not None:
            size, is_sharded = rehearsed.weights, planned.is_shared_out
            self._add(judge_gradients(traffic, size, processes, step, is_sharded=is_sharded))
            then, now = (
                traffic.seconds(size, count, is_sharded=is_sharded) for count in (processes, traffic.processes)
            )
            added = max(0.0, then - now)  # what the processes of the rehearsal had is in its steps
        self._prognosis = Prognosis(steps, processes, step, rows / found.loaded.rate, added, self._only_on)
        if found.write_rate is not None:
            there, size = existing_ancestor(Path(config.out)), rehearsed.checkpoint
            free, kept = shutil.disk_usage(there).free, planned.kept_checkpoints(steps)
            self._add(judge_space(free, size, kept, there, chosen=planned.chooses))
            self._add(judge_saving(found.write_rate, size, config.checkpoint_steps * self._prognosis.step))
        self._add(judge_hours(self._prognosis, self._visit.hours))

    def _tell(self) -> None:
        if self._world.rank > 0:
            return
        say, findings = self._console.say, self._findings
        say("\n" + findings_table(findings) + "\n")
        say(conclusion(findings))
        if self._visit.report is not None:
            report: dict[str, Any] = {
                "works": works(findings),
                "recipe": self._recipe,
                "nodes": self._visit.nodes,
                "gpus": self._visit.gpus,
                "measured_on": self._on,
                "processes": self._world.size,
                "findings": [vars(one) for one in findings],
                "prognosis": None if self._prognosis is None else self._prognosis.to_json(),
                "said": list(self._said),
                "environment": environment(LIBRARIES),
            }
            write_json(Path(self._visit.report), report)
