"""One start of a stream, in a process that does nothing else: `python stream_startup.py JOB`, both ways in JSON.

Seconds count from after the imports: to the manifest, the stream, its first batch and its tenth; `own_cpu_seconds` are
those of this process, without its workers, to the first batch.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any


@dataclass(frozen=True)
class Job:
    """folder: of the dataset. size: height and width of the views."""

    folder: str
    workers: int
    batch_size: int
    size: int


def start(job: Job) -> dict[str, Any]:
    """Seconds after which each step was done."""
    begin = time.perf_counter()
    from data_pipeline.augment import RandomResizedCrop
    from data_pipeline.manifest import read_manifest
    from data_pipeline.rows import Part
    from data_pipeline.stream import Stream

    imports = time.perf_counter() - begin
    done: dict[str, float] = {}
    begin, used = time.perf_counter(), time.process_time()

    def note(step: str) -> None:
        done[step] = time.perf_counter() - begin

    part = Part(read_manifest(job.folder), "train")
    note("manifest")
    view = RandomResizedCrop((job.size, job.size))
    stream = Stream([part], view, batch_size=job.batch_size, seed=0, workers=job.workers)
    note("stream")
    stream.open()
    note("workers begun")
    batches = iter(stream)
    next(batches)
    note("first batch")
    used = time.process_time() - used
    for _ in islice(batches, 9):
        pass
    note("tenth batch")
    stream.close()
    return {"import_seconds": imports, "seconds": done, "own_cpu_seconds": used}


def main() -> None:
    """Start, print the result."""
    job = Job(**json.loads(sys.argv[1]))
    print(json.dumps({"job": asdict(job), **start(job)}))


if __name__ == "__main__":
    main()
