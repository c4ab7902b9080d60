"""What processes send each other, counted: `python scaling_wire.py RANK WORLD PORT`, one a rank; rank 0 prints JSON.

The kernel counts, for each TCP connection of a process, the bytes that it was given to send (Linux 4.19 or newer).
"""

import json
import os
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

# Where struct tcp_info has them, in linux/tcp.h.
_BYTES_SENT, _BYTES_SENT_AGAIN = 200, 208
_ESTABLISHED = 1
_NUMBERS = 500_000
_MESSAGES = 200


def sent() -> tuple[int, int]:
    """Connections of this process, and the bytes that were sent on them, lost ones once."""
    connections = total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.stat(int(name)).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # closed since it was listed
            continue
        with copy:
            if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.type == socket.SOCK_STREAM:
                info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                if info[0] == _ESTABLISHED:
                    connections += 1
                    once, again = (struct.unpack_from("Q", info, at)[0] for at in (_BYTES_SENT, _BYTES_SENT_AGAIN))
                    total += once - again
    return connections, total


def counted(work: Callable[[], Any]) -> int:
    """Bytes sent meanwhile."""
    before = sent()[1]
    work()
    return sent()[1] - before


def count(rank: int, world: int, port: int) -> dict[str, float]:
    """Bytes that rank 0 sends over those of the tensors, and seconds of a hop of a message as `World.any` sends it."""
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig
    from pretrain.encoder import create_encoder
    from pretrain.masked_autoencoder import MaskedAutoencoder
    from pretrain.sharding import shard_parameters

    def autoencoder() -> MaskedAutoencoder:
        encoder = create_encoder(EncoderConfig("vit_tiny_patch16_224", (32, 32), (8, 8)))
        model = MaskedAutoencoder(encoder, DecoderConfig(width=64, depth=2, heads=4), ObjectiveConfig())
        model.initialize(torch.Generator().manual_seed(0))
        return model

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    # Only after the group is there: what keeps the processes together has connections as well.
    numbers, vote = torch.ones(_NUMBERS), torch.tensor(1)
    distributed.all_reduce(numbers)
    found: dict[str, float] = {"connections": sent()[0]}
    found["all_reduce"] = counted(lambda: distributed.all_reduce(numbers)) / numbers.nbytes
    images, noise = torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    model = autoencoder()
    gradients = sum(one.nbytes for one in model.parameters() if one.requires_grad)
    weights = sum(one.nbytes for one in model.parameters())
    shared = DistributedDataParallel(model)
    for _ in range(2):  # the first backward pass arranges the buckets
        found["ddp"] = counted(shared(images, noise).loss.backward) / gradients
    sharded = autoencoder()
    shard_parameters(sharded, torch.device("cpu"), world)
    for _ in range(2):
        distributed.barrier()
        before = sent()[1]
        loss = sharded(images, noise).loss
        found["fsdp_forward"] = (sent()[1] - before) / weights
        loss.backward()
    seconds = []
    for _ in range(_MESSAGES):
        begin = time.perf_counter()
        distributed.all_reduce(vote)
        seconds.append(time.perf_counter() - begin)
    # Round a ring each process waits for all others, twice. The least: what it takes where nothing else runs.
    found["message_seconds"] = min(seconds) / (2 * (world - 1))
    distributed.barrier()
    distributed.destroy_process_group()
    return found


def main() -> None:
    """Meet the others, count, and on rank 0 print."""
    rank, world, port = map(int, sys.argv[1:4])
    found = count(rank, world, port)
    if rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
