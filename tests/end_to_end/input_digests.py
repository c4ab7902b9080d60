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

from pretrain.fitting import Fitting
from pretrain.masked_autoencoder import MaskedAutoencoder, random_mask


def record(output: Path) -> None:
    """Patch the step and the model, so that every step leaves its line."""
    step, forward = Fitting.step, MaskedAutoencoder.forward
    hidden: list[Tensor] = []

    def noting_forward(self: MaskedAutoencoder, images: Tensor, noise: Tensor) -> Any:
        hidden.extend(random_mask(noise, self.visible).masked)
        return forward(self, images, noise)

    def noting_step(self: Fitting, number: int, taken: Any, rate: float) -> Any:
        result = step(self, number, taken, rate)
        batch, world = taken.batch, self.training.world
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
    Fitting.step = noting_step  # type: ignore[method-assign]


def hash_of(tensor: Tensor) -> str:
    """Of shape and values."""
    return hashlib.sha256(repr(tensor.shape).encode() + tensor.numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    record(Path(sys.argv[1]))
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
