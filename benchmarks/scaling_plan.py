"""Which run is looked at, at which sizes of the world; and what facts make of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scaling_facts import shard_bytes
from scaling_model import Workload
from scaling_setting import DISK_RATE

Facts = Mapping[str, Any]
"""What scaling.py gathers: see `facts` in scaling.json."""


@dataclass(frozen=True)
class Plan:
    """What is computed: sizes of the world, the run, and the seed of the simulations."""

    gpus: tuple[int, ...]
    batch: int
    positions: float
    checkpoint_steps: int
    patience: float
    seed: int


def workload(facts: Facts, plan: Plan, stored: str = "full") -> Workload:
    """The run on images stored so."""
    model, measured = facts["model"], facts["measured"]
    return Workload(
        flops=model["flops"],
        trained=model["trained"],
        parameters=model["parameters"],
        units=model["units"],
        checkpoint_bytes=model["checkpoint_bytes"],
        checkpoint_steps=plan.checkpoint_steps,
        batch=plan.batch,
        positions=plan.positions,
        image_bytes=shard_bytes(measured["images"][stored]["bytes"]),
        image_seconds=facts["worker_seconds"][stored],
        message_seconds=min(one["message_seconds"] for one in measured["wire"].values()),
        # Serialised and hashed by one thread, as measured; and written by a disk of the cluster, as stated.
        write_rate=1 / (measured["checkpoint"]["processor_seconds_a_byte"] + 1 / DISK_RATE),
    )
