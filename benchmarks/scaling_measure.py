"""What is measured on this machine for docs/scaling.md: images, their decoding, writing a checkpoint, and the wire."""

import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from loader_paths import Encoded

_SIZE = 224
_SHORT_SIDE, _QUALITY = 256, 90  # shard.py --short-side 256, and its default quality
_QUANTILES = 40
_CHECKPOINT_NUMBERS = 10_000_000  # parameters of the checkpoint that is written: 120 MB with both moments


def image_facts(source: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Of images as they are ("full") and made smaller ("256"): mean bytes, and how long a view of one takes.

    `spread`: quantiles of seconds over their mean, from the least to the greatest, of the processor's time.

    Raises:
        ValueError: there is no such file.
    """
    import torch
    from loader_paths import draw_crops, sherd

    torch.set_num_threads(1)
    if not source.is_file():
        raise ValueError(f"{source}: no such file; expected a parquet file with a column `image`, as `datasets` writes")
    found = {}
    for stored, images in zip(("full", "256"), _read(source), strict=True):
        show, seconds = sherd(_SIZE), []
        for number in range(rounds + 1):  # the first warms up
            for image, crop in zip(images, draw_crops(images, _SIZE, number), strict=True):
                begin = time.process_time()
                show(image, crop)
                seconds += [time.process_time() - begin] if number else []
        steps = np.quantile(seconds, (np.arange(_QUANTILES) + 0.5) / _QUANTILES)
        found[stored] = {
            "images": len(images),
            "bytes": float(np.mean([len(image.data) for image in images])),
            "seconds": float(np.mean(seconds)),
            "spread": [round(float(step), 4) for step in steps / steps.mean()],
        }
    return found


def _read(source: Path) -> "tuple[list[Encoded], list[Encoded]]":
    """The images of a parquet file that libjpeg-turbo decodes, and the same with a shorter side of 256 pixels."""
    import simplejpeg
    import torch
    from loader_paths import Encoded
    from pyarrow import parquet

    from data_pipeline.reencode import shrink

    def encoded(data: bytes) -> Encoded:
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
        return Encoded(data, torch.from_numpy(np.frombuffer(data, np.uint8).copy()), int(width), int(height))

    full, small = [], []
    for row in parquet.read_table(source, columns=["image"])["image"].to_pylist():
        data = row["bytes"]
        if simplejpeg.is_jpeg(data) and simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "Gray"):
            made = shrink(simplejpeg.decode_jpeg(data, "RGB"), _SHORT_SIDE, _QUALITY)
            full.append(encoded(data))
            small.append(encoded(data if made is None else made[0]))
    return full, small


def checkpoint_facts(work: Path, rounds: int) -> dict[str, float]:
    """Of writing a checkpoint by pretrain/checkpoint.py, in a folder: bytes a second, hashed and synced, of the best
    round (others may use the disk meanwhile), and seconds of the processor for a byte, of the same.
    """
    import torch

    from pretrain.checkpoint import save_checkpoint

    numbers = torch.rand(_CHECKPOINT_NUMBERS, generator=torch.Generator().manual_seed(0))
    size, taken, busy = 3 * numbers.nbytes, [], []
    with tempfile.TemporaryDirectory(dir=work) as folder:
        for number in range(rounds):
            moments = {"w.exp_avg": numbers.clone(), "w.exp_avg_sq": numbers.clone()}
            begin, used = time.perf_counter(), time.process_time()
            save_checkpoint(Path(folder), {"w": numbers}, moments, {"step": number}, None)
            taken.append(time.perf_counter() - begin)
            busy.append(time.process_time() - used)
    return {"bytes": size, "bytes_a_second": size / min(taken), "processor_seconds_a_byte": min(busy) / size}


def wire_facts(world: int) -> dict[str, float]:
    """What scaling_wire.py counts between so many processes.

    Raises:
        RuntimeError: one of them failed; the text ends with what it said.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = str(Path(__file__).with_name("scaling_wire.py"))
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(world), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    said = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, said, strict=True):
        if process.returncode:
            raise RuntimeError(f"scaling_wire.py: exit code {process.returncode}:\n{errors[-2000:]}")
    return json.loads(said[0][0].splitlines()[-1])
