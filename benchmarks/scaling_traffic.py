"""Bytes and seconds of the collectives of data parallelism, on nodes whose GPUs are closer to each other than nodes.

Inside a node everybody sends round a ring; between nodes the GPUs of equal place do, each a share. One follows the
other: that NCCL pipelines both is left out, as is that switches can add (SHARP), so the seconds are an upper bound.
"""

from math import ceil, log2
from typing import NamedTuple

from scaling_setting import BUCKET_BYTES, COLLECTIVE_SHARE, RING, TREE, Cluster


class Traffic(NamedTuple):
    """Seconds: of the bytes inside nodes and between them, and of waiting for the first of them to arrive."""

    inside: float
    between: float
    latency: float

    @property
    def total(self) -> float:
        """One after another."""
        return self.inside + self.between + self.latency


def gather_bytes(size: float, processes: int) -> float:
    """Bytes each of so many processes sends so that all have a tensor of `size` bytes, of which each has its share.

    A reduce-scatter, the way back, takes as many.
    """
    return size * (processes - 1) / processes


def all_reduce_bytes(size: float, processes: int) -> float:
    """Bytes each process sends to sum tensors of `size` bytes: a reduce-scatter and an all-gather (Patarasuk and Yuan
    2009, doi:10.1016/j.jpdc.2008.09.002)."""
    return 2 * gather_bytes(size, processes)


def buckets(size: float) -> int:
    """Messages in which DistributedDataParallel sends gradients of so many bytes."""
    return ceil(size / BUCKET_BYTES)


def all_reduce(size: float, cluster: Cluster, gpus: int) -> Traffic:
    """Of gradients of `size` bytes, by buckets, over trees between nodes as NCCL counts their latency."""
    nodes, local = cluster.place(gpus)
    hops = 2 * ((local - 1) * TREE.inside + log2(nodes) * TREE.between)
    latency = buckets(size) * (TREE.base + hops) if gpus > 1 else 0.0
    return Traffic(*_bandwidth(size, cluster, nodes, local, passes=2), latency)


def gather(size: float, cluster: Cluster, gpus: int, calls: int) -> Traffic:
    """Of an all-gather or a reduce-scatter of `size` bytes in so many calls, over one ring through all GPUs."""
    nodes, local = cluster.place(gpus)
    hops = (gpus - nodes) * RING.inside + (nodes - 1) * RING.between
    latency = calls * (RING.base + hops) if gpus > 1 else 0.0
    return Traffic(*_bandwidth(size, cluster, nodes, local, passes=1), latency)


def _bandwidth(size: float, cluster: Cluster, nodes: int, local: int, passes: int) -> tuple[float, float]:
    inside = passes * gather_bytes(size, local) / (cluster.gpu.link_rate * COLLECTIVE_SHARE)
    # Each GPU's share of the bytes goes between nodes, all shares of a node through its ports together.
    between = passes * gather_bytes(size, nodes) / (cluster.network_rate * COLLECTIVE_SHARE)
    return inside, between
