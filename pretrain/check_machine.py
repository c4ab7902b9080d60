"""What the machines are: versions, GPUs, shared memory, clocks; the same on all of them, and enough?"""

import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.cuda import nccl

from launch.environment import environment
from pretrain.findings import Finding, told_bytes
from pretrain.session import LIBRARIES
from pretrain.world import World

_SHARED_MEMORY = Path("/dev/shm")
_DRIVER = Path("/proc/driver/nvidia/version")
_AGREE = 2.0  # seconds: clocks that differ by more make log files of several hosts hard to read together
_REFUSED = 300.0  # seconds: a third of what S3 forgives


@dataclass(frozen=True)
class Gpu:
    """A GPU as torch sees it; memory in bytes."""

    name: str
    memory: int
    capability: tuple[int, int]
    has_bf16: bool


@dataclass(frozen=True)
class Machine:
    """What a process sees of its host; `has_driver`: whether there is a GPU's driver, whatever torch makes of it."""

    host: str
    versions: Mapping[str, str | None]
    cores: int
    gpus: tuple[Gpu, ...]
    has_driver: bool
    shared_memory: int | None


def this_machine() -> Machine:
    """The host of this process."""
    found = environment(LIBRARIES)
    git = found["git"]
    versions = {"python": found["python"], **found["versions"], "CUDA": torch.version.cuda, "driver": _driver()}
    versions["source"] = None if git is None else git["revision"][:12] + (" with changes" if git["dirty"] else "")
    if torch.cuda.is_available() and torch.distributed.is_nccl_available():
        versions["NCCL"] = ".".join(map(str, nccl.version()))
    return Machine(
        socket.gethostname(),
        versions,
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        # The driver counts GPUs, too, that this torch cannot use.
        tuple(_gpu(number) for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)),
        _DRIVER.exists(),
        shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else None,
    )


def hosts_of(machines: Sequence[Machine]) -> list[Machine]:
    """One of each host, in order of appearance."""
    return list({machine.host: machine for machine in machines}.values())


def judge_versions(machines: Sequence[Machine]) -> Finding:
    """Whether all processes run the same."""
    first = machines[0]
    for other in machines[1:]:
        for name in sorted({*first.versions, *other.versions}):
            ours, theirs = first.versions.get(name), other.versions.get(name)
            if ours != theirs:
                measured = f"{name}: {ours} on {first.host}, {theirs} on {other.host}"
                fix = "the same environment on every host: the same container, or one on a shared disk"
                return Finding("problem", "versions", measured, "the same on all hosts", fix)
    shown = ("python", "torch", "timm", "accelerate", "CUDA", "driver", "NCCL")
    told = ", ".join(f"{name} {first.versions[name]}" for name in shown if first.versions.get(name) is not None)
    same = f"; the same in all {len(machines)} processes" if len(machines) > 1 else ""
    return Finding("ok", "versions", told + same)


def judge_gpus(machines: Sequence[Machine], asked: int, precision: str) -> list[Finding]:
    """Whether each host has as many GPUs as processes are asked for, and what they can do."""
    findings: list[Finding] = []
    for machine in hosts_of(machines):
        what, seen, needed = f"GPUs of {machine.host}", len(machine.gpus), f"{asked} a node"
        if seen == 0 and machine.has_driver:
            fix = "a driver for this torch's CUDA (nvidia-smi shows its version), or a container started with its GPUs"
            findings.append(Finding("problem", what, "a driver, and no GPU that torch can use", needed, fix))
        elif seen == 0:
            fix = "nothing for a run on CPUs; else give this command on a node of the run: no GPU is judged from here"
            findings.append(Finding("warning", what, f"none; {machine.cores} cores", needed, fix))
        elif seen < asked:
            findings.append(Finding("problem", what, _told(machine.gpus), needed, f"--gpus {seen}, or another node"))
        else:
            findings.append(Finding("ok", what, _told(machine.gpus), needed))
            findings += _judge_precision(machine, precision)
    return findings


def judge_shared_memory(machine: Machine, ring: int, processes: int) -> Finding:
    """Whether /dev/shm holds the loader's rings, `ring` bytes for each process of a host."""
    what, needed = "shared memory", f"{told_bytes(ring * processes)}: {processes} x {told_bytes(ring)} of batches"
    if machine.shared_memory is None:
        fix = "nothing, where it is fast: the loader writes batches to the folder for temporary files"
        return Finding("warning", what, f"no {_SHARED_MEMORY} on {machine.host}", needed, fix)
    measured = f"{told_bytes(machine.shared_memory)} free in {_SHARED_MEMORY} of {machine.host}"
    if ring * processes <= machine.shared_memory:
        return Finding("ok", what, measured, needed)
    fix = "more of it: docker run --shm-size or --ipc host; on Kubernetes an emptyDir with medium Memory at /dev/shm"
    return Finding("problem", what, measured, needed, fix)


def clock_differences(world: World, rounds: int = 5) -> dict[str, float]:
    """Seconds by which each host's clock is ahead of rank 0's, to about the time that a message takes."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        world.barrier()
        times = world.gather([(socket.gethostname(), time.time())])
        for host, moment in times:
            found.setdefault(host, []).append(moment - times[0][1])
    # The one that waited least for the barrier tells most.
    return {host: min(differences, key=abs) for host, differences in found.items()}


def judge_clocks(differences: Mapping[str, float]) -> Finding:
    """Whether the hosts agree on the time."""
    what = "clocks"
    if len(differences) == 1:
        return Finding("ok", what, f"one host, {next(iter(differences))}: nothing to compare")
    host, most = max(differences.items(), key=lambda item: abs(item[1]))
    measured = f"{host} is {abs(most):.2f} s {'ahead of' if most > 0 else 'behind'} rank 0's host"
    if abs(most) < _AGREE:
        return Finding("ok", what, measured)
    verdict = "warning" if abs(most) < _REFUSED else "problem"  # stores refuse what is signed at another time
    return Finding(verdict, what, measured, f"within {_AGREE:g} s", f"set the clock of {host}: chronyc makestep")


def _judge_precision(machine: Machine, precision: str) -> list[Finding]:
    without = [gpu.name for gpu in machine.gpus if not gpu.has_bf16]
    if precision == "bf16" and without:
        fix = "--precision fp16, or GPUs of capability 8.0"
        return [Finding("problem", "precision", f"{without[0]} of {machine.host} has no bf16", "bf16", fix)]
    if precision == "fp32" and not without:
        fix = "--precision bf16, unless fp32 is wanted"
        return [Finding("warning", "precision", f"fp32 on {machine.gpus[0].name}, which has bf16", "", fix)]
    return [Finding("ok", "precision", precision)]


def _told(gpus: Sequence[Gpu]) -> str:
    kinds = {(gpu.name, gpu.memory, gpu.capability): 0 for gpu in gpus}
    for gpu in gpus:
        kinds[gpu.name, gpu.memory, gpu.capability] += 1
    return ", ".join(
        f"{count} x {name} ({told_bytes(memory)}, capability {major}.{minor})"
        for (name, memory, (major, minor)), count in kinds.items()
    )


def _gpu(number: int) -> Gpu:
    found = torch.cuda.get_device_properties(number)
    return Gpu(found.name, found.total_memory, (found.major, found.minor), found.major >= 8)


def _driver() -> str | None:
    """`NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  ...`: the first word of digits and points."""
    if not _DRIVER.exists():
        return None
    words = _DRIVER.read_text().split()
    return next((word for word in words if word[0].isdigit() and "." in word), None)
