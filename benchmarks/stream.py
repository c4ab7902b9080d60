"""How fast the stream is: images/s by number of workers, where the time goes, and resuming in a billion samples.

python benchmarks/stream.py --data DATASET --size 224 224 --workers 1 2 --out benchmarks/stream.json

Prints a table and writes JSON with the machine and the date.
"""

import datetime
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launch.settings import parse_options


@dataclass(frozen=True)
class Options:
    """What is measured."""

    data: str
    """Dataset folder."""
    size: tuple[int, int] = (224, 224)
    """Height and width of the pictures, in pixels."""
    workers: tuple[int, ...] = (1, 2)
    """Numbers of worker processes to try."""
    batch_size: int = 128
    """Images of a batch."""
    seconds: float = 10.0
    """How long each is measured, after one batch of warm-up."""
    rounds: int = 3
    """All are measured in turn so often; the median is printed."""
    split: str = "train"
    """The split that is read."""
    out: str = ""
    """JSON file for the results; none if empty."""


def measure(options: Options, workers: int) -> dict[str, float]:
    """Images/s of one stream, and milliseconds of a worker's time for an image by stage."""
    from data_pipeline.augment import RandomResizedCrop
    from data_pipeline.manifest import read_manifest
    from data_pipeline.rows import FillReport, Part
    from data_pipeline.stream import Stream

    begin = time.perf_counter()
    part = Part(read_manifest(options.data), options.split)
    stream = Stream([part], RandomResizedCrop(options.size), batch_size=options.batch_size, seed=0, workers=workers)
    batches = iter(stream)
    next(batches)
    first = time.perf_counter() - begin
    for _ in itertools.repeat(None, 4):  # what was filled ahead while this process started
        next(batches)
    stream.report = FillReport()
    images, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < options.seconds:
        images += len(next(batches).images)
    report = stream.report
    stream.close()
    return {
        "workers": workers,
        "images_per_second": images / elapsed,
        "read_ms": 1000 * report.read_seconds / report.rows,
        "decode_ms": 1000 * report.decode_seconds / report.rows,
        "not_jpeg": report.not_jpeg / report.rows,
        "first_batch_seconds": first,
    }


def locate_in_a_billion() -> dict[str, float]:
    """Seconds and peak megabytes to the first sample of a random step of 1e9 samples in 100,000 shards of 1.1 GB."""
    import numpy as np

    from data_pipeline.order import Order, Plan, rank_positions

    begin = time.perf_counter()
    shards = np.full(100_000, 10_000)
    order = Order(shards, shards * 110_000, fingerprint="5e" * 32, plan=Plan(lanes=7680), seed=0)
    order.locate(rank_positions(123_456_789_012, 4096, 3, 8))
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}


def main(options: Options) -> None:
    """Measure everything, print the table, write the JSON."""
    own = [sys.executable, __file__, "--billion"]
    billion = json.loads(subprocess.run(own, check=True, capture_output=True, text=True).stdout)
    rounds = [[measure(options, workers) for workers in options.workers] for _ in range(options.rounds)]
    rows = []
    for number in range(len(options.workers)):
        tried = sorted((one[number] for one in rounds), key=lambda row: row["images_per_second"])
        rows.append(tried[len(tried) // 2])
    columns = list(rows[0])
    print("  ".join(f"{name:>18}" for name in columns))
    for row in rows:
        print("  ".join(f"{row[name]:>18.4g}" for name in columns))
    print(
        f"1e9 samples: first sample of a random step in {billion['seconds']:.2f} s, {billion['peak_megabytes']:.0f} MB"
    )
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "options": asdict(options),
        "stream": rows,
        "billion": billion,
    }
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--billion"]:  # in a process of its own, so that its memory is its own
        print(json.dumps(locate_in_a_billion()))
    else:
        assert __doc__ is not None
        main(parse_options(__doc__, Options))
