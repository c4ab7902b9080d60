"""When, on which machine and with which versions something was measured: the head of every benchmark's JSON."""

import datetime
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launch.environment import environment


def describe_machine(distributions: Iterable[str]) -> dict[str, Any]:
    """Date, machine, versions of these distributions (None where one is not installed) and git revision, for JSON.

    `load` is the number of runnable processes in the last minute: above a fraction, others were at work as well.
    """
    known = environment(distributions)
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
            "gpus": _gpus(),
            "platform": known["platform"],
            "load": os.getloadavg()[0],
        },
        "versions": {"python": known["python"], **known["versions"]},
        "git": known["git"],
    }


def machine_line(described: dict[str, Any]) -> str:
    """`2025-01-31, AMD EPYC, 2 cores, 25 GB, no GPU; load 0.3` of what `describe_machine` gave."""
    machine = described["machine"]
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    return (
        f"{described['date']}, {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB, {gpus}; "
        f"load {machine['load']:.1f}"
    )


def _cpu_model() -> str:
    """As the kernel names it; elsewhere than on Linux as Python does."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Names of NVIDIA's, without importing what would occupy them."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.split("\n")[:-1] if found.returncode == 0 else []
