"""Sharding takes the same memory for more than twice as many images, once there are enough to fill what it sorts in.

A table's rows do cost something: the library that maps its Arrow file keeps some twenty bytes for each.
"""

import datetime
import io
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

FEW, MANY = 400_000, 1_000_000
MOST_MORE = 25_000_000  # bytes: far less than a name and a hash of each image would take


def write_table(path: Path, count: int) -> None:
    """A parquet file of so many different images of 4 x 1 pixels."""
    with pq.ParquetWriter(path, pa.schema({"image": pa.binary(), "label": pa.int64()})) as writer:
        for start in range(0, count, 10_000):
            images = []
            for number in range(start, min(start + 10_000, count)):
                pixels = np.frombuffer(number.to_bytes(12, "little"), np.uint8).reshape(1, 4, 3)
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG")
                images.append(buffer.getvalue())
            labels = [number % 10 for number in range(len(images))]
            writer.write_table(pa.table({"image": pa.array(images, pa.binary()), "label": labels}))


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that no file backs; 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(found[0]) * 1024 if found else 0


def peak(runs: "Runs", source: Path, out: Path) -> int:
    """The most memory that any process of the command held."""
    options = ("--source", source, "--out", out, "--workers", 2, "--shard-size", 2_000_000, "--holdout", 0.01)
    environment = {"HF_HOME": str(out.parent / "hf")}
    words = runs.python(runs.ROOT / "data_pipeline/shard.py", *options)
    child = runs.Child(words, out.parent / f"{out.name}-log", environment)
    most = 0
    while child.process.poll() is None:
        most = max([most, *(anonymous_bytes(pid) for pid in child.members())])
        time.sleep(0.1)
    child.wait(60).expect()
    return most


@pytest.mark.timeout(1200)
def test_memory_is_flat(runs: "Runs", tmp_path: Path) -> None:
    peaks = {}
    for count in (FEW, MANY):
        (tmp_path / str(count)).mkdir()
        write_table(tmp_path / str(count) / "train.parquet", count)
        peaks[count] = peak(runs, tmp_path / str(count) / "train.parquet", tmp_path / f"out-{count}")
        now = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S}"
        print(f"{now} sharding {count:,} images: at most {peaks[count] / 1e6:.0f} MB in a process", flush=True)
    assert peaks[MANY] < peaks[FEW] + MOST_MORE
