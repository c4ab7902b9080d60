"""Run `mae.py` and record what goes into each step of its training, whatever the number of processes.

python input_digests.py OUTPUT mae.py [argument ...]: a JSON line for each step, with a digest over the rows of the
global batch, in the order of their positions, of positions, samples, pixels and masks.
"""

import hashlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

import pretrain.loop
from pretrain.masked_autoencoder import MaskedAutoencoder, random_mask


def record(output: Path) -> None:
    """Patch the loop and the model, so that every step leaves its line."""
    backward, forward = pretrain.loop._backward, MaskedAutoencoder.forward
    hidden: list[Tensor] = []

    def noting_forward(self: MaskedAutoencoder, images: Tensor, noise: Tensor) -> Any:
        hidden.extend(random_mask(noise, self.visible).masked)
        return forward(self, images, noise)

    def noting_backward(model: Any, objective: Any, batch: Any, world: Any, accumulate: int) -> Any:
        result = backward(model, objective, batch, world, accumulate)
        columns = (batch.positions.tolist(), batch.samples.tolist(), batch.images, batch.labels.tolist(), hidden)
        rows = [
            (position, sample, hash_of(image), label, hash_of(mask))
            for position, sample, image, label, mask in zip(*columns, strict=True)
        ]
        hidden.clear()
        everything = sorted(world.gather(rows))
        if world.rank == 0:
            line = {
                "first": everything[0][0],
                "rows": len(everything),
                **{
                    name: hashlib.sha256(repr([row[number] for row in everything]).encode()).hexdigest()
                    for number, name in enumerate(("positions", "samples", "pixels", "labels", "masks"))
                },
            }
            with output.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return result

    MaskedAutoencoder.forward = noting_forward  # type: ignore[method-assign]
    pretrain.loop._backward = noting_backward


def hash_of(tensor: Tensor) -> str:
    """Of shape and values."""
    return hashlib.sha256(repr(tensor.shape).encode() + tensor.numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    record(Path(sys.argv[1]))
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
