"""What is assumed of GPUs, nodes, networks and failures, each with where it is from. Nothing here was measured here.

Rates are in bytes a second and in one direction, where makers like to state both together.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Gpu(NamedTuple):
    """FLOP/s of dense bf16; bytes/s of its memory, of its links to the other GPUs of a node, and of the host's."""

    name: str
    flops: float
    memory_rate: float
    link_rate: float
    host_rate: float
    source: str


@dataclass(frozen=True)
class Cluster:
    """Nodes of equal GPUs.

    network_rate: of a node to the others, all its ports together. storage_rate: of a node from the store. cores: of a
    node.
    """

    name: str
    gpu: Gpu
    network_rate: float
    storage_rate: float
    cores: int
    source: str
    gpus_a_node: int = 8

    def place(self, gpus: int) -> tuple[int, int]:
        """Nodes, and GPUs used of each.

        Raises:
            ValueError: some nodes would have more than others.
        """
        if gpus <= self.gpus_a_node:
            return 1, gpus
        if gpus % self.gpus_a_node:
            raise ValueError(f"--gpus {gpus}: expected at most {self.gpus_a_node}, or a multiple of it (whole nodes)")
        return gpus // self.gpus_a_node, self.gpus_a_node

    def workers(self) -> int:
        """Loader processes beside each training process: by the rule of pretrain/session.py, loader_workers."""
        return max(1, min(16, self.cores // self.gpus_a_node - 1))


H100 = Gpu(
    "H100 SXM", 989.4e12, 3.35e12, 450e9, 64e9, "NVIDIA H100 data sheet: 1,979 TFLOP/s with sparsity, NVLink 900 GB/s"
)
A100 = Gpu("A100 SXM 80 GB", 312e12, 2.039e12, 300e9, 32e9, "NVIDIA A100 data sheet: 312 TFLOP/s, NVLink 600 GB/s")

CLUSTERS = (
    Cluster("H100, 400 Gb/s a GPU", H100, 8 * 50e9, 12.5e9, 112, "DGX H100: 112 cores, 8 x ConnectX-7; store: stated"),
    Cluster("H100, 400 Gb/s a node", H100, 50e9, 3.1e9, 112, "the same with one port; store at 25 Gb/s: stated"),
    Cluster("A100, 200 Gb/s a GPU", A100, 8 * 25e9, 12.5e9, 128, "DGX A100: 128 cores, 8 x ConnectX-6; store: stated"),
)
"""The first is that of the main table."""

MFUS = (0.3, 0.4, 0.5)
"""Shares of a GPU's FLOP/s that forward and backward reach: stated, the middle one in all tables but one."""
MFU = MFUS[1]

COLLECTIVE_SHARE = 370 / 450
"""Of the rate of a link that collectives reach: 370 of 450 GB/s (NVIDIA/nccl-tests issue 212, a developer of NCCL)."""


class Latency(NamedTuple):
    """Seconds that a collective takes besides its bytes: once, and for each hop inside a node and between two."""

    base: float
    inside: float
    between: float


# NVIDIA/nccl, src/graph/tuning.cc: baseLat and hwLat of its protocol LL128, in microseconds.
TREE = Latency(14.0e-6, 1.25e-6, 8.5e-6)
RING = Latency(14.0e-6, 1.9e-6, 4.0e-6)

BUCKET_BYTES = 25 * 2**20
"""Gradients that DistributedDataParallel sends together, by default."""
OPTIMIZER_BYTES = 32
"""Memory traffic of the update for each parameter in fp32: AdamW reads 16 and writes 12, the norm reads 4."""


class FailureRate(NamedTuple):
    """Failures of a node in a day that end a run."""

    name: str
    a_node_day: float
    source: str


FAILURE_RATES = (
    FailureRate(
        "Llama 3", 419 / (54 * 16384 / 8), "419 in 54 days on 16,384 GPUs: Llama Team 2024, arXiv:2407.21783, table 5"
    ),
    FailureRate("RSC-1", 6.5e-3, "6.50 in 1,000 node-days: Kokolis et al. 2025, arXiv:2410.21680"),
    FailureRate(
        "RSC-1, jobs of 1,024",
        24 / 7.9 / 128,
        "one in 7.9 hours of 128 nodes, as measured of such jobs: Kokolis et al. 2025",
    ),
    FailureRate("preemptible", 0.1, "one in ten node-days: stated"),
)

REQUEUE_SECONDS = 120.0
"""Until a requeued job starts: Slurm holds it for about two minutes; a full cluster takes longer."""
START_SECONDS = 60.0
"""From the start of the processes to the first step, without loading the checkpoint: stated."""

DISK_RATE = 1e9
"""Bytes a second that one process writes to the file system of the runs: stated."""
IMAGENET_IMAGES = 1_281_167
"""In the training split of ILSVRC 2012 (Russakovsky et al. 2015, arXiv:1409.0575)."""
STORE_REQUESTS = 5500
"""GET requests a second for each prefix that S3 promises (Amazon S3 user guide, performance guidelines)."""
