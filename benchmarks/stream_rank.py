"""One rank that reads an epoch, with the workers it starts: `python stream_rank.py JOB`, both ways in JSON.

What the kernel has read for these processes from a disk is asked of the kernel: mapped pages and what it reads ahead
are in it, what was in the page cache is not.
"""

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """data: folder or URL. size: height and width of the views, which are not looked at."""

    data: str
    rank: int
    world: int
    workers: int
    batch_size: int
    size: int


def read_an_epoch(job: Job) -> dict[str, Any]:
    """How many images this rank saw, and bytes that its processes had read from a disk when the steps were done."""
    from data_pipeline.augment import RandomResizedCrop
    from data_pipeline.manifest import read_manifest
    from data_pipeline.rows import Part
    from data_pipeline.stream import Stream

    imports = bytes_read()
    stream = Stream(
        [Part(read_manifest(job.data), "train")],
        RandomResizedCrop((job.size, job.size)),
        batch_size=job.batch_size,
        seed=0,
        rank=job.rank,
        world=job.world,
        workers=job.workers,
        epochs=1,
    )
    images, first = 0, 0
    for batch in stream:
        images += len(batch.positions)
        first = first or bytes_read() - imports
    whole = bytes_read() - imports
    stream.close()
    return {"images": images, "bytes_to_first_batch": first, "bytes_read": whole}


def bytes_read() -> int:
    """Bytes read from a disk by this process and all it has started that are alive."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            # What comes before the parenthesis that closes the program's name may hold anything.
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(map(_bytes_read, family))


def _bytes_read(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.partition(":")[2]) for line in lines if line.startswith("read_bytes"))


def main() -> None:
    """Read, print the result."""
    job = Job(**json.loads(sys.argv[1]))
    print(json.dumps({"job": asdict(job), **read_an_epoch(job)}))


if __name__ == "__main__":
    main()
