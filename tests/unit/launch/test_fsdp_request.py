"""What accelerate leaves in the environment where it is told of FSDP, and what becomes of it."""

import argparse
import re
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import prepare_multi_gpu_env

from launch import fsdp_request
from launch.fsdp_request import asks_to_shard

CONFIGS = Path(fsdp_request.__file__).parent / "configs"
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def test_only_where_the_launcher_was_told() -> None:
    assert asks_to_shard(FSDP2)
    assert not asks_to_shard({})
    assert not asks_to_shard({"ACCELERATE_USE_FSDP": "false", "FSDP_VERSION": "1"})
    assert not asks_to_shard({"FSDP_OFFLOAD_PARAMS": "true"})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"FSDP_VERSION": "1"}, r"told fsdp_version 1, expected 2; set fsdp_version: 2 in the config file, or pass"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, r"told fsdp_offload_params true, expected false; leave it out"),
        ({"FSDP_RESHARD_AFTER_FORWARD": "False"}, r"told fsdp_reshard_after_forward False, expected true; leave it"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, r"fsdp_activation_checkpointing true.* --gradient-checkpointing"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, r"told to use DeepSpeed, expected DDP or FSDP2; .*gpu-8\.yaml"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, r"told to use Megatron-LM, expected DDP or FSDP2"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, r"told to use a parallelism_config, expected DDP or FSDP2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_done_is_refused(changed: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asks_to_shard({**FSDP2, **changed})


def test_version_1_is_accelerates_default() -> None:
    with pytest.raises(ValueError, match="fsdp_version 1, expected 2"):
        asks_to_shard({"ACCELERATE_USE_FSDP": "true"})


def test_messages_name_files_that_exist() -> None:
    with pytest.raises(ValueError, match="--config_file") as refused:
        asks_to_shard({"ACCELERATE_USE_DEEPSPEED": "true"})
    named = re.search(r"--config_file (\S+) or (\S+)$", str(refused.value))
    assert named is not None
    assert Path(named[1]).is_file()
    assert Path(named[1]).with_name(named[2]).is_file()
    assert Path(named[1]).parent == CONFIGS


def told(*options: str) -> dict[str, str]:
    """What accelerate itself leaves in the environment."""
    more = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    asked: argparse.Namespace = launch_command_parser().parse_args([*more, *options, "x.py"])
    return prepare_multi_gpu_env(_validate_launch_command(asked)[0])


def test_accelerate_tells_it_so() -> None:
    for name in ("gpu-8-fsdp2", "multi-node-fsdp2"):
        assert asks_to_shard(told("--config_file", str(CONFIGS / f"{name}.yaml"), "--num_processes", "2"))
    assert asks_to_shard(told("--use_fsdp", "--fsdp_version", "2", "--num_processes", "2"))
    assert not asks_to_shard(told("--config_file", str(CONFIGS / "gpu-8.yaml")))
    with pytest.raises(ValueError, match="fsdp_version 1"):
        asks_to_shard(told("--use_fsdp", "--num_processes", "2"))
