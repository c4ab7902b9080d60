"""A training step at a number of GPUs: what each part of it takes, and which part binds."""

from dataclasses import dataclass, replace
from math import ceil

from scaling_setting import MFU, OPTIMIZER_BYTES, Cluster
from scaling_traffic import all_reduce, buckets, gather

from pretrain.world import steps_between_questions


@dataclass(frozen=True)
class Workload:
    """What is trained on what.

    flops: of training on one image. trained, parameters: numbers of those with a gradient, and of all. units: groups of
    parameters that --shard-parameters gathers one by one. batch: of all GPUs together. image_bytes: of one in a shard.
    image_seconds: of a loader process for one. message_seconds: of one hop of a message between processes.
    write_rate: bytes/s at which a checkpoint is written.
    """

    flops: float
    trained: int
    parameters: int
    units: int
    checkpoint_bytes: int
    checkpoint_steps: int
    batch: int
    positions: float
    image_bytes: float
    image_seconds: float
    message_seconds: float
    write_rate: float

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return ceil(self.positions / self.batch)


@dataclass(frozen=True)
class Step:
    """Seconds of a step's parts.

    compute: forward and backward. gradients: traffic that the backward pass does not hide. optimizer: the update.
    decode, read, messages: beside these, each at the same time as everything else. saving: a step's share of what a
    checkpoint holds up. hidden: traffic that computing hides, part of no sum.
    """

    compute: float
    gradients: float
    optimizer: float
    decode: float
    read: float
    messages: float
    saving: float
    hidden: float

    @property
    def total(self) -> float:
        """Of the step."""
        return max(self.compute + self.gradients + self.optimizer, self.decode, self.read, self.messages) + self.saving


PARTS = ("compute", "gradients", "optimizer", "decode", "read", "messages", "saving")
CHANGES = {
    "compute": "nothing: the GPUs bind, as they should",
    "gradients": "a larger --batch-size, or fewer GPUs; a faster network",
    "optimizer": "a larger --batch-size; --shard-parameters updates a share each",
    "decode": "shards with --short-side 256; more cores",
    "read": "shards with --short-side 256; a faster store, or SHERD_CACHE on local disks",
    "messages": "agreeing on a stop in fewer steps (pretrain/world.py), or not around a ring",
    "saving": "a larger --checkpoint-steps; a faster disk",
}
"""What helps where a part binds."""


def step(
    work: Workload,
    cluster: Cluster,
    gpus: int,
    *,
    read_factor: float = 1.0,
    mfu: float = MFU,
    sharded: bool = False,
    without: str | None = None,
) -> Step:
    """A step of a world of so many GPUs; `without` makes a part of it free.

    Raises:
        ValueError: the GPUs cannot share the batch equally.
    """
    assert without is None or without in PARTS
    if work.batch % gpus:
        raise ValueError(f"--batch-size {work.batch} is not divisible by {gpus} processes, which --gpus asks for")
    _, local = cluster.place(gpus)
    images = work.batch // gpus
    compute = 0.0 if without == "compute" else images * work.flops / (cluster.gpu.flops * mfu)
    traffic, exposed = (0.0, 0.0) if without == "gradients" else _traffic(work, cluster, gpus, compute, sharded)
    updated = work.trained / gpus if sharded else work.trained
    found = Step(
        compute=compute,
        gradients=exposed,
        optimizer=OPTIMIZER_BYTES * updated / cluster.gpu.memory_rate,
        decode=images * work.image_seconds / cluster.workers(),
        read=images * local * work.image_bytes * read_factor / cluster.storage_rate,
        messages=2 * (gpus - 1) * work.message_seconds / steps_between_questions(gpus),
        saving=0.0,
        hidden=traffic - exposed,
    )
    found = replace(found, **({without: 0.0} if without in ("optimizer", "decode", "read", "messages") else {}))
    if without == "saving":
        return found
    return replace(found, saving=save_stall(work, cluster, gpus, found.total, sharded) / work.checkpoint_steps)


def save_stall(work: Workload, cluster: Cluster, gpus: int, step_seconds: float, sharded: bool) -> float:
    """Seconds that training waits at a checkpoint: for the copy to the host, and for the one before to be written."""
    copy = work.checkpoint_bytes / cluster.gpu.host_rate
    if sharded:
        copy += gather(work.checkpoint_bytes, cluster, gpus, calls=work.units).total
    return copy + max(0.0, work.checkpoint_bytes / work.write_rate - work.checkpoint_steps * step_seconds)


def bottleneck(work: Workload, cluster: Cluster, gpus: int, *, read_factor: float = 1.0, mfu: float = MFU) -> str:
    """The part without which the step would be shortest."""
    return min(PARTS, key=lambda part: step(work, cluster, gpus, read_factor=read_factor, mfu=mfu, without=part).total)


def covering_batch(work: Workload, cluster: Cluster, gpus: int, share: float = 0.1) -> int | None:
    """The smallest batch, doubling the run's, whose traffic adds at most a share of computing; None where none does."""
    for doublings in range(12):
        batch = work.batch << doublings
        found = step(replace(work, batch=batch), cluster, gpus)
        if found.gradients <= share * found.compute:
            return batch
    return None


def _traffic(work: Workload, cluster: Cluster, gpus: int, compute: float, sharded: bool) -> tuple[float, float]:
    """Seconds of a step's traffic, and those that nothing hides. Backward is two thirds of computing."""
    forward, backward = compute / 3, compute * 2 / 3
    if not sharded:
        size = 4 * work.trained  # gradients are fp32
        total = all_reduce(size, cluster, gpus).total
        last = total / buckets(size)  # the last bucket is full only when the backward pass is over
        return total, max(last, total - backward)
    whole = gather(4 * work.parameters, cluster, gpus, calls=work.units).total
    scattered = gather(4 * work.trained, cluster, gpus, calls=work.units).total
    first = (whole + scattered) / work.units  # before the first unit's forward, and after the last one's backward
    hides = max(0.0, whole - forward) + max(0.0, whole + scattered - backward)
    return 2 * whole + scattered, max(first, hides) if gpus > 1 else 0.0
