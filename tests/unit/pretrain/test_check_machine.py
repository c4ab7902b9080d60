"""Versions, GPUs, shared memory and clocks, judged by fixed values."""

from dataclasses import replace

import pytest
import torch

from pretrain.check_machine import (
    Gpu,
    Machine,
    clock_differences,
    hosts_of,
    judge_clocks,
    judge_gpus,
    judge_shared_memory,
    judge_versions,
    this_machine,
)
from pretrain.world import World

H100 = Gpu("NVIDIA H100", 80_000_000_000, (9, 0), has_bf16=True)
V100 = Gpu("Tesla V100", 16_000_000_000, (7, 0), has_bf16=False)
NODE = Machine("a", {"python": "3.11.7", "torch": "2.8.0"}, 96, (H100,) * 8, True, 1_000_000_000)


def test_versions_must_be_the_same_everywhere():
    assert judge_versions([NODE, replace(NODE, host="b")]).measured == (
        "python 3.11.7, torch 2.8.0; the same in all 2 processes"
    )
    other = replace(NODE, host="b", versions={"python": "3.11.7", "torch": "2.9.0"})
    found = judge_versions([NODE, NODE, other])
    assert (found.verdict, found.measured) == ("problem", "torch: 2.8.0 on a, 2.9.0 on b")
    lacking = replace(NODE, host="b", versions={"python": "3.11.7"})
    assert judge_versions([NODE, lacking]).measured == "torch: 2.8.0 on a, None on b"


def test_gpus_seen_against_asked():
    (found, precision) = judge_gpus([NODE, NODE], 8, "bf16")
    assert (found.verdict, found.what) == ("ok", "GPUs of a")
    assert found.measured == "8 x NVIDIA H100 (80.0 GB, capability 9.0)"
    assert (precision.verdict, precision.measured) == ("ok", "bf16")
    (found,) = judge_gpus([replace(NODE, gpus=(H100,) * 4)], 8, "bf16")
    assert (found.verdict, found.needed, found.fix) == ("problem", "8 a node", "--gpus 4, or another node")


def test_a_host_without_gpus_is_not_judged_unless_its_driver_is_there():
    (found,) = judge_gpus([replace(NODE, gpus=(), has_driver=False)], 8, "bf16")
    assert (found.verdict, found.measured) == ("warning", "none; 96 cores")
    assert "no GPU is judged from here" in found.fix
    (found,) = judge_gpus([replace(NODE, gpus=())], 8, "bf16")
    assert (found.verdict, found.measured) == ("problem", "a driver, and no GPU that torch can use")


def test_precision():
    old = replace(NODE, gpus=(V100,) * 8)
    (_, found) = judge_gpus([old], 8, "bf16")
    assert (found.verdict, found.measured) == ("problem", "Tesla V100 of a has no bf16")
    assert found.fix == "--precision fp16, or GPUs of capability 8.0"
    assert judge_gpus([old], 8, "fp32")[1].verdict == "ok"
    assert judge_gpus([NODE], 8, "fp32")[1].fix == "--precision bf16, unless fp32 is wanted"


def test_shared_memory():
    assert judge_shared_memory(NODE, 100_000_000, 8).verdict == "ok"
    found = judge_shared_memory(replace(NODE, shared_memory=64_000_000), 38_600_000, 8)
    assert (found.verdict, found.measured) == ("problem", "64.0 MB free in /dev/shm of a")
    assert found.needed == "309 MB: 8 x 38.6 MB of batches"
    assert found.fix.startswith("more of it: docker run --shm-size or --ipc host; on Kubernetes an emptyDir")
    assert judge_shared_memory(replace(NODE, shared_memory=None), 1, 1).verdict == "warning"


@pytest.mark.parametrize(("ahead", "verdict"), [(0.4, "ok"), (-3.0, "warning"), (600.0, "problem")])
def test_clocks(ahead: float, verdict: str):
    found = judge_clocks({"a": 0.0, "b": ahead})
    assert found.verdict == verdict
    assert found.measured == f"b is {abs(ahead):.2f} s {'ahead of' if ahead > 0 else 'behind'} rank 0's host"


def test_of_this_machine():
    machine = this_machine()
    assert machine.versions["torch"] == torch.__version__.partition("+")[0]
    assert machine.cores > 0
    assert hosts_of([machine, machine]) == [machine]
    differences = clock_differences(World("fp32"))
    assert differences == {machine.host: 0.0}
    assert judge_clocks(differences).verdict == "ok"
