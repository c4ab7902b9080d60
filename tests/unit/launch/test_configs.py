"""What accelerate makes of each file of launch/configs: its own code parses, checks, and prepares the environment."""

import argparse
import re
import shlex
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import prepare_multi_gpu_env
from accelerate.utils.launch import prepare_simple_launcher_cmd_env

from pretrain.recipes import RECIPES

ROOT = Path(__file__).parents[3]
CONFIGS = {path.stem: path for path in sorted((ROOT / "launch/configs").glob("*.yaml"))}
PROCESSES = {
    "cpu-2": 2,
    "gpu-1": 1,
    "gpu-8": 8,
    "gpu-8-fsdp2": 8,
    "multi-node": 128,
    "multi-node-fsdp2": 128,
}
"""That the command in each file starts, on all its machines."""
SEVERAL_MACHINES = ("multi-node", "multi-node-fsdp2")


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """OMP_NUM_THREADS decides what accelerate says of threads."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("ACCELERATE_USE_FSDP", "FSDP_VERSION", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def command_in(name: str) -> list[str]:
    """The command that the comment on top of a file gives, as a shell splits it, without variables before it."""
    lines = [line.removeprefix("# ") for line in CONFIGS[name].read_text().splitlines() if line.startswith("# ")]
    text = re.sub(r"\\\n *", "", "\n".join(lines))
    (command,) = [line for line in text.splitlines() if re.match(r"(\w+=\w+ )?accelerate launch ", line)]
    words = shlex.split(command.replace("$NODE_RANK", "3").replace("$FIRST_HOST", "10.77.0.1"))
    return words[words.index("accelerate") :]


def parsed(words: list[str]) -> argparse.Namespace:
    """What accelerate makes of the words behind `accelerate launch`, before it starts anything."""
    return _validate_launch_command(launch_command_parser().parse_args(words))[0]


def test_the_files_are_these() -> None:
    assert CONFIGS.keys() == PROCESSES.keys()


@pytest.mark.parametrize("name", PROCESSES)
def test_accelerate_reads_the_file_and_knows_every_field(name: str) -> None:
    config = load_config_from_file(str(CONFIGS[name]))
    assert isinstance(config, ClusterConfig)
    assert config.mixed_precision == "no"


@pytest.mark.parametrize("name", PROCESSES)
def test_the_command_on_top_is_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = command_in(name)
    assert words[:2] == ["accelerate", "launch"]
    asked = parsed(words[2:])
    assert asked.config_file == f"launch/configs/{name}.yaml"
    assert asked.training_script == "pretrain/mae.py"
    assert asked.training_script_args[0] in RECIPES
    assert "--data" in asked.training_script_args
    assert "--out" in asked.training_script_args
    assert asked.num_processes == PROCESSES[name]
    assert asked.num_machines == (16 if name in SEVERAL_MACHINES else 1)


def environment_of(asked: argparse.Namespace) -> dict[str, str]:
    several = asked.use_fsdp or asked.multi_gpu
    return prepare_multi_gpu_env(asked) if several else prepare_simple_launcher_cmd_env(asked)[1]


@pytest.mark.parametrize("name", PROCESSES)
def test_what_the_script_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes by the launcher of several; FSDP2 where the name says so, and nowhere else."""
    monkeypatch.chdir(ROOT)
    asked = parsed(command_in(name)[2:])
    assert (asked.use_fsdp or asked.multi_gpu) == (PROCESSES[name] > 1)
    assert not asked.cpu
    environment = environment_of(asked)
    assert (environment.get("ACCELERATE_USE_FSDP") == "true") == name.endswith("fsdp2")
    assert environment.get("FSDP_VERSION") == ("2" if name.endswith("fsdp2") else None)
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    if name == "cpu-2":
        first = environment["CUDA_VISIBLE_DEVICES"].split(",")[0]
        assert int(first) < 0, "CUDA shows the devices before the first that there is not"
    else:
        assert "CUDA_VISIBLE_DEVICES" not in environment


@pytest.mark.parametrize("name", ["cpu-2", "gpu-8", "gpu-8-fsdp2"])
def test_the_number_of_processes_may_be_given(name: str) -> None:
    asked = parsed(["--config_file", str(CONFIGS[name]), "--num_processes", "3", "x.py"])
    environment_of(asked)
    assert asked.nproc_per_node == "3"


@pytest.mark.parametrize("name", SEVERAL_MACHINES)
def test_machines_meet_at_the_first_and_may_restart(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    asked = parsed(command_in(name)[2:])
    environment_of(asked)
    assert (asked.nnodes, asked.nproc_per_node, asked.node_rank) == ("16", "8", 3)
    assert asked.rdzv_endpoint == "10.77.0.1:29500"
    assert (asked.rdzv_backend, asked.max_restarts) == ("c10d", 3)


@pytest.mark.parametrize("name", SEVERAL_MACHINES)
@pytest.mark.parametrize("left_out", ["num_processes", "num_machines", "machine_rank"])
def test_what_differs_from_launch_to_launch_must_be_given(name: str, left_out: str) -> None:
    given = {"num_processes": "2", "num_machines": "2", "machine_rank": "1", "main_process_ip": "10.77.0.1"}
    del given[left_out]
    options = [word for option, value in given.items() for word in (f"--{option}", value)]
    messages = {
        "num_processes": "manually pass in `--num_processes`",
        "num_machines": "'>' not supported between instances of 'str' and 'int'",
        "machine_rank": "invalid literal .* 'pass --machine_rank'",
    }
    with pytest.raises((ValueError, TypeError), match=messages[left_out]):
        environment_of(parsed(["--config_file", str(CONFIGS[name]), *options, "x.py"]))


@pytest.mark.parametrize("name", SEVERAL_MACHINES)
def test_torch_refuses_a_first_host_that_was_not_given(name: str) -> None:
    from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

    options = ["--num_processes", "2", "--num_machines", "2", "--machine_rank", "1"]
    asked = parsed(["--config_file", str(CONFIGS[name]), *options, "x.py"])
    environment_of(asked)
    with pytest.raises(ValueError, match=r"'pass --main_process_ip:29500' must be"):
        parse_rendezvous_endpoint(asked.rdzv_endpoint, -1)


def test_what_accelerate_takes_from_the_command_line_alone() -> None:
    """Why the files do not hold them: it passes over the one and refuses the other."""
    assert launch_command_parser().parse_args(["x.py"]).rdzv_backend == "static"
    assert "max_restarts" not in ClusterConfig.__dataclass_fields__
    assert launch_command_parser().parse_args(["x.py"]).max_restarts == 0
