"""How fast processes put their gradients together, and what that is beside the time of a step."""

import socket
import time
from dataclasses import dataclass

import torch
import torch.distributed

from pretrain.findings import Finding, counted, told_bytes
from pretrain.world import World

_SIZES = (1_000_000, 16_000_000, 64_000_000)
_ROUNDS = 3
_SHARDED = 1.5  # weights gathered for the forward and the backward pass, gradients scattered: three halves of a sum


@dataclass(frozen=True)
class Traffic:
    """What was measured of sums over all processes (all_reduce): bytes and seconds of each, the smallest first."""

    processes: int
    hosts: int
    library: str
    sums: tuple[tuple[int, float], ...]

    @property
    def link_rate(self) -> float:
        """Bytes a second each way that a process had in the largest: it sends its data 2 (n - 1) / n times."""
        size, seconds = self.sums[-1]
        return size * _volume(self.processes) / seconds

    def seconds(self, size: int, processes: int, *, is_sharded: bool = False) -> float:
        """How long the sum of so many bytes would take over so many processes at that rate."""
        times = _SHARDED if is_sharded else 1.0
        return times * size * _volume(processes) / self.link_rate

    @property
    def described(self) -> str:
        """On what it was measured."""
        return f"{self.library}, {counted(self.processes, 'process')} on {counted(self.hosts, 'host')}"


def measure_traffic(world: World) -> Traffic | None:
    """Sum tensors of several sizes over all processes, the way gradients are; None where there is only one process.

    Every process must call it. The fastest of some rounds counts.
    """
    hosts = world.gather([socket.gethostname()])
    if world.size == 1:
        return None
    sums = []
    for size in _SIZES:
        values = torch.zeros(size // 4, device=world.device)
        seconds = min(_timed(world, values) for _ in range(_ROUNDS + 1))
        sums.append((values.nbytes, max(world.gather([seconds]))))
    return Traffic(world.size, len(set(hosts)), torch.distributed.get_backend(), tuple(sums))


def judge_network(traffic: Traffic | None, nodes: int, processes: int) -> Finding:
    """Whether the processes of the run reach each other, and at what rate; `processes` are those of the run."""
    what = "network"
    if traffic is None and processes == 1:
        return Finding("ok", what, "one process: nothing to send")
    if traffic is None:
        return Finding(
            "warning",
            what,
            "not checked: one process was started",
            f"{processes:,} processes that reach each other",
            "give this command under the launcher of the run: accelerate launch --multi_gpu --num_machines "
            f"{nodes} --num_processes {processes} --machine_rank RANK --main_process_ip HOST --main_process_port "
            "29500 pretrain/doctor.py ... on each host (two hosts are enough)",
        )
    told = ", ".join(f"{told_bytes(size)} in {seconds * 1e3:,.1f} ms" for size, seconds in traffic.sums)
    measured = f"{traffic.described}: sums of {told}: {told_bytes(traffic.link_rate)}/s each way"
    if nodes > 1 and traffic.hosts == 1:
        fix = "give this command on two hosts of the run at least: what lies between hosts is not known"
        return Finding("warning", what, measured, f"{nodes} hosts that reach each other", fix)
    return Finding("ok", what, measured)


def judge_gradients(traffic: Traffic, gradients: int, processes: int, step: float, *, is_sharded: bool) -> Finding:
    """Whether gradients, so many bytes, are put together within a step's seconds, mostly beside its backward pass."""
    seconds = traffic.seconds(gradients, processes, is_sharded=is_sharded)
    what = "gradients"
    how = " (weights as well: they are shared out)" if is_sharded else ""
    measured = (
        f"{told_bytes(gradients)} over {processes:,} processes{how}: {seconds * 1e3:,.1f} ms by {traffic.described}"
    )
    needed = f"less than a step's {step * 1e3:,.1f} ms"
    if seconds <= step / 2:
        return Finding("ok", what, measured, needed)
    fix = (
        "a larger --batch-size, so that a step has more to compute, fewer processes, or a faster network between hosts"
    )
    if traffic.library == "gloo":
        fix += "; GPUs use NCCL, which is not judged from here"
    return Finding("warning", what, measured, needed, fix)


def _volume(processes: int) -> float:
    """How often a process sends its data in a ring."""
    return 2 * (processes - 1) / processes


def _timed(world: World, values: torch.Tensor) -> float:
    world.barrier()
    begin = time.perf_counter()
    torch.distributed.all_reduce(values)
    if values.is_cuda:
        torch.cuda.synchronize(values.device)
    return time.perf_counter() - begin
