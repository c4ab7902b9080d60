"""One resumption, in a process that does nothing else: `python stream_resume.py JOB`, both ways in JSON.

The job names a dataset folder and a run position; the result is the name of the first sample there, and what it took.
"""

import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """Where is resumed: at run position `position`, on this rank of this world, with the stream itself or without."""

    folder: str
    position: int
    batch_size: int
    rank: int
    world: int
    stream: bool


class Clock:
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        """The time since the last call, or since the start, was this step's."""
        now = time.perf_counter()
        self.seconds[step] = now - self._last
        self._last = now


def resume(job: Job) -> dict[str, Any]:
    """Name, seconds and peak megabytes."""
    begin = time.perf_counter()
    from data_pipeline.manifest import locate_sample, read_manifest, sample_starts
    from data_pipeline.order import Mixture, Order, Plan, lanes_for, rank_positions
    from data_pipeline.storage import ShardReader

    if job.stream:
        from data_pipeline.augment import RandomResizedCrop
        from data_pipeline.rows import Part
        from data_pipeline.stream import Stream
    imports, imported = time.perf_counter() - begin, peak_megabytes()

    clock, used = Clock(), time.process_time()
    manifest = read_manifest(job.folder)
    split = manifest.split("train")
    clock.lap("manifest")
    plan = Plan(lanes=lanes_for(512))
    if job.stream:
        stream = Stream(
            [Part(manifest, "train")],
            RandomResizedCrop((224, 224)),
            batch_size=job.batch_size,
            seed=0,
            plan=plan,
            rank=job.rank,
            world=job.world,
        )
        stream.load_state(stream.state() | {"position": job.position})
        clock.lap("stream")
    order = Order(split.table.samples, split.table.bytes, fingerprint=split.fingerprint, plan=plan, seed=0)
    clock.lap("order")
    positions = rank_positions(job.position, job.batch_size, job.rank, job.world)
    located = Mixture([order], plan).locate(positions)
    clock.lap("locate a batch")
    shards, rows = locate_sample(sample_starts(split), located.sample)
    name = ShardReader(manifest, split).name(int(shards[0]), int(rows[0]))
    clock.lap("name")
    return {
        "name": name,
        "shard": int(shards[0]),
        "seconds": sum(clock.seconds.values()),
        "cpu_seconds": time.process_time() - used,
        "steps": clock.seconds,
        "peak_megabytes": peak_megabytes(),
        "import_seconds": imports,
        "imported_megabytes": imported,
        "torch": "torch" in sys.modules,
    }


def manifest_steps(folder: str) -> dict[str, float]:
    """Seconds of what `read_manifest` does, one by one."""
    from data_pipeline.manifest import MANIFEST, Split
    from data_pipeline.shard_table import ShardTable, sorted_text

    clock = Clock()
    text = Path(folder, MANIFEST).read_text()
    clock.lap("read")
    content = json.loads(text)
    clock.lap("parse")
    expected, found = content.pop("checksum"), hashlib.sha256()
    for piece in sorted_text(content):
        found.update(piece.encode())
    assert found.hexdigest() == expected
    clock.lap("checksum")
    listed = content["splits"]["train"]
    split = Split("jpg", ShardTable.from_json(listed["shards"]))
    clock.lap("table")
    assert split.fingerprint == listed["fingerprint"]
    clock.lap("fingerprint")
    return clock.seconds


def peak_megabytes() -> float:
    """The most memory that this process has had; `ru_maxrss` begins with what its parent had when it was started."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Resume, then look at the manifest's reading step by step; print both as one JSON object."""
    job = Job(**json.loads(sys.argv[1]))
    result = resume(job)
    print(json.dumps({"job": asdict(job), **result, "manifest_steps": manifest_steps(job.folder)}))


if __name__ == "__main__":
    main()
