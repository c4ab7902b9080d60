"""Stream a dataset, wherever it lies, and write down what each batch shows: a JSON line with the batch's rows.

python stream_process.py DATA OUT [--rank 0 --world 1 ...]. A row is its position, sample, label and a digest of its
pixels. Errors are told as the training scripts tell them.
"""

import argparse
import hashlib
import json
import os
import time
from pathlib import Path

from data_pipeline.augment import RandomResizedCrop
from data_pipeline.manifest import read_manifest
from data_pipeline.order import Plan
from data_pipeline.patience import VARIABLE
from data_pipeline.rows import Part
from data_pipeline.stream import Stream
from pretrain.session import explained


def main() -> None:
    """Stream to the end, or to the first error."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--lanes", type=int, default=12)
    parser.add_argument("--pause", type=float, default=0, help="seconds after each batch, as a training step takes")
    parser.add_argument("--patience", type=float, help="seconds that a store is waited for")
    options = parser.parse_args()
    if options.patience is not None:
        os.environ[VARIABLE] = str(options.patience)
    with explained(), options.out.open("w", buffering=1) as out:
        stream = Stream(
            [Part(read_manifest(options.data), "train")],
            RandomResizedCrop((16, 16)),
            batch_size=options.batch_size,
            seed=5,
            plan=Plan(lanes=options.lanes),
            rank=options.rank,
            world=options.world,
            workers=options.workers,
            epochs=options.epochs,
        )
        for batch in stream:
            pixels = [hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16] for image in batch.images]
            columns = (batch.positions.tolist(), batch.samples.tolist(), batch.labels.tolist(), pixels)
            out.write(json.dumps(list(zip(*columns, strict=True))) + "\n")
            time.sleep(options.pause)
        stream.close()


if __name__ == "__main__":
    main()
