"""Whether accelerate's launcher was told to share parameters out, in a way that the training scripts know.

It only leaves word in the environment: to share out is the script's part, and one that does not look trains by DDP.
"""

from collections.abc import Mapping
from pathlib import Path

_CONFIGS = Path(__file__).parent / "configs"
_OTHER_WAYS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
# Of each variable: accelerate's name of the option, its default, the only value that is done, and what to do else.
_DETAILS = {
    "FSDP_VERSION": ("fsdp_version", "1", "2", "set fsdp_version: 2 in the config file, or pass --fsdp_version 2"),
    "FSDP_OFFLOAD_PARAMS": ("fsdp_offload_params", "false", "false", "leave it out and train on more GPUs"),
    "FSDP_RESHARD_AFTER_FORWARD": ("fsdp_reshard_after_forward", "true", "true", "leave it out"),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "fsdp_activation_checkpointing",
        "false",
        "false",
        "leave it out and pass the script --gradient-checkpointing",
    ),
}


def asks_to_shard(environment: Mapping[str, str]) -> bool:
    """Whether `accelerate launch` was told to train by FSDP2, with --use_fsdp or in its config file.

    Raises:
        ValueError: it was told of FSDP1, DeepSpeed or Megatron-LM, or of details that are not done here.
    """
    for variable, name in _OTHER_WAYS.items():
        if _is_true(environment.get(variable)):
            raise ValueError(
                f"accelerate launch was told to use {name}, expected DDP or FSDP2; launch with "
                f"--config_file {_CONFIGS}/gpu-8.yaml or gpu-8-fsdp2.yaml"
            )
    if not _is_true(environment.get("ACCELERATE_USE_FSDP")):
        return False
    for variable, (option, default, expected, fix) in _DETAILS.items():
        got = environment.get(variable, default)
        if got.lower() != expected:
            raise ValueError(f"accelerate launch was told {option} {got}, expected {expected}; {fix}")
    return True


def _is_true(value: str | None) -> bool:
    return (value or "").lower() in ("true", "1", "yes")
