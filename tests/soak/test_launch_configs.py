"""Two machines' launchers, both on this one, with the config files for several machines: a killed process comes back.

With DDP, and with FSDP2, which nothing but the file asks for. A minute or two.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

ACCELERATE = str(Path(sys.executable).with_name("accelerate"))
# Without it torch gives the ranks the launchers' own store, after a restart with the addresses of before.
A_NEW_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
LONGER = ("--epochs", 8, "--evaluate-epochs", 0, "--workers", 0, "--tracker", "none")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def rank_of_either(machines: "list[Runs.Child]", number: int) -> int:
    """c10d gives out the ranks in whatever order."""
    mark = f"\0RANK={number}\0".encode()
    (machine,) = [
        machine
        for machine in machines
        if any(mark in Path(f"/proc/{pid}/environ").read_bytes() for pid in machine.members())
    ]
    return machine.rank(number)


@pytest.mark.parametrize("name", ["multi-node", "multi-node-fsdp2"])
def test_a_killed_process_comes_back(runs: "Runs", digits: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = runs.ROOT / f"launch/configs/{name}.yaml"
    machines = []
    for number in range(2):
        words = [ACCELERATE, "launch", "--config_file", str(config), "--num_machines", "2", "--num_processes", "2"]
        words += ["--machine_rank", str(number), "--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
        words += ["--rdzv_backend", "c10d", "--max_restarts", "3"]
        words += [str(runs.MAE), *runs.options(digits, out, *LONGER)]
        machines.append(runs.Child(words, tmp_path / f"{number}", A_NEW_STORE))
        if number == 0:  # both are the first host here, and the one that comes first keeps the meeting place
            machines[0].wait_until(lambda: listens(port))
    for step in (20, 60):
        machines[0].wait_until(lambda at=step: runs.last_step(out) >= at)
        began = time.monotonic()
        os.kill(rank_of_either(machines, 1), signal.SIGKILL)
        machines[0].wait_until(lambda at=step: runs.last_step(out) > at + 20)
        print(f"{name}: trains on {time.monotonic() - began:.0f} s after a process was killed")
    for machine in machines:
        machine.wait().expect(0)
        assert machine.is_gone(), f"processes remain: {machine.members()}"
    assert runs.read_exit(out)["status"] == "done"
    assert "".join(machine.said() for machine in machines).count("going on from") == 2
    assert json.loads((out / "environment.json").read_text())["world"] == 2
    assert json.loads((out / "config.json").read_text())["shard_parameters"] == name.endswith("fsdp2")
