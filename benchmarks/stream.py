"""What a stream costs besides decoding: to go on in the middle of a run, to start, and in bytes.

python benchmarks/stream.py resume --out benchmarks/stream_resume.json
python benchmarks/stream.py start --out benchmarks/stream_start.json
python benchmarks/stream.py bytes --out benchmarks/stream_bytes.json

Each prints a table and writes JSON with the machine and the date. Datasets are written on first use, and kept.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from launch.settings import parse_command

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sherd/benchmarks"
_IMAGES = "../shared/data/imagenet_samples/train.parquet"
_DISK, _SERVER = ("disk, one machine", "disk, a machine each"), ("server, one cache", "server, a cache each")
_DISTRIBUTIONS = ("sherd", "numpy", "torch", "pillow", "simplejpeg", "aiohttp", "fsspec")


@dataclass(frozen=True)
class Resume:
    """Time and memory to the name of the first sample of a random step, in a billion samples.

    A dataset folder with the manifest of 100,000 shards of 10,000 samples, with made-up hashes; of the tars and indexes
    only those of the shard that is read. Fresh processes read the manifest, compute which samples the first batch of
    rank 3 of 8 has (7,680 lanes), and read the first one's name from its tar; seconds count from after the imports.
    With and without the stream itself, which imports torch.
    """

    work: str = str(_CACHE)
    """Folder for the dataset, which is kept."""
    samples: int = 1_000_000_000
    """Of the dataset."""
    shards: int = 100_000
    """Into which they are divided evenly."""
    batch_size: int = 4096
    """Images of a batch, over 8 ranks."""
    rounds: int = 5
    """Each with a step of its own, by chance; the median is printed, and the most."""
    out: str = ""
    """JSON file for the results; none if empty."""

    def __post_init__(self) -> None:
        _check_positive(self, "samples", "shards", "batch_size", "rounds")
        if self.samples % self.shards:
            raise ValueError(f"--samples {self.samples} is not divisible by the {self.shards} of --shards")
        if self.batch_size % 8:
            raise ValueError(f"--batch-size is {self.batch_size}, expected a multiple of 8, the number of ranks")


@dataclass(frozen=True)
class Start:
    """Time from after the imports to the first batch of 128 views of 224 px, in a local dataset of 1,000 shards.

    The photographs lie in the page cache. Fresh processes open the dataset and take ten batches, with no worker and
    with some; the numbers of workers are tried in turn.
    """

    images: str = _IMAGES
    """Parquet file of photographs, as `datasets` writes it."""
    work: str = str(_CACHE)
    """Folder for the dataset, which is kept: 2 GB."""
    shards: int = 1_000
    """Of the dataset."""
    each: int = 20
    """Images of a shard."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Numbers of worker processes to try."""
    batch_size: int = 128
    """Images of a batch."""
    size: int = 224
    """Height and width of the views, in pixels."""
    rounds: int = 5
    """All are measured in turn so often; medians are printed."""
    out: str = ""
    """JSON file for the results; none if empty."""

    def __post_init__(self) -> None:
        _check_positive(self, "shards", "each", "batch_size", "size", "rounds")
        if not self.workers or min(self.workers) < 0:
            raise ValueError(f"--workers {self.workers}: expected at least one number, none below 0")


@dataclass(frozen=True)
class Bytes:
    """Bytes read in an epoch of 2 ranks with 2 workers each, against those of the dataset (tars and indexes).

    From a disk, as the kernel accounts for the ranks' processes, nothing being in the page cache at first: both ranks
    on one machine, and each as on a machine of its own. From a server on this machine that counts what it sends: with
    one cache for both ranks (SHERD_CACHE), and with a cache for each.
    """

    images: str = _IMAGES
    """Parquet file of photographs, as `datasets` writes it."""
    work: str = str(_CACHE)
    """Folder for the dataset, which is kept, on the disk to be measured: 2 GB."""
    shards: int = 16
    """Of the dataset."""
    each: int = 1_000
    """Images of a shard."""
    batch_size: int = 128
    """Images of a batch, over both ranks."""
    size: int = 32
    """Height and width of the views, in pixels; small, since nobody looks at them."""
    only: tuple[str, ...] = ()
    """Only the rows of the table that begin so, such as disk; all by default."""
    out: str = ""
    """JSON file for the results; none if empty."""

    def __post_init__(self) -> None:
        _check_positive(self, "shards", "each", "batch_size", "size")
        for start in self.only:
            if not any(name.startswith(start) for name in (*_DISK, *_SERVER)):
                raise ValueError(f"--only {start!r}: expected the beginning of one of: {'; '.join(_DISK + _SERVER)}")
        if self.batch_size % 2:
            raise ValueError(f"--batch-size is {self.batch_size}, expected an even number: 2 ranks share a batch")


def resume(options: Resume) -> dict[str, Any]:
    """Measure, print, and return what goes into the JSON."""
    import numpy as np
    from stream_data import SPLIT, billion, write_shard
    from stream_processes import run

    from data_pipeline.manifest import locate_sample, read_manifest, sample_starts
    from data_pipeline.order import Order, Plan, lanes_for
    from data_pipeline.text_table import text_table

    rank, world, most_epochs = 3, 8, 1000
    folder = billion(Path(options.work), options.samples, options.shards)
    manifest = read_manifest(folder)
    split = manifest.split(SPLIT)
    order = Order(
        split.table.samples, split.table.bytes, fingerprint=split.fingerprint, plan=Plan(lanes=lanes_for(512)), seed=0
    )
    steps = random.Random(0)
    results: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for _ in range(options.rounds):
        position = steps.randrange(most_epochs * options.samples // options.batch_size) * options.batch_size
        sample = order.locate(np.asarray([position + (rank - position) % world])).sample
        (shard,), (row,) = locate_sample(sample_starts(split), sample)
        name = write_shard(manifest, int(shard), int(row))
        job = {
            "folder": str(folder),
            "position": position,
            "batch_size": options.batch_size,
            "rank": rank,
            "world": world,
        }
        for stream, found in results.items():
            found.append(run("stream_resume.py", {**job, "stream": stream}))
            assert found[-1]["name"] == name
    rows = []
    for stream, found in results.items():
        what = "with the stream (torch)" if stream else "manifest, order, name"
        keys = "seconds", "cpu_seconds", "peak_megabytes", "imported_megabytes"
        seconds, used, memory, imported = (sorted(one[key] for one in found) for key in keys)
        rows.append([what, median(seconds), seconds[-1], median(used), round(memory[-1]), round(median(imported))])
    print(text_table(["first sample's name", "s", "s, most", "CPU s", "peak MB", "MB after imports"], rows))
    for key, found in (("steps", results[True]), ("steps", results[False]), ("manifest_steps", results[False])):
        print(f"{key.replace('_', ' ')}, ms: {_milliseconds([one[key] for one in found])}")
    return {"without_torch": results[False], "with_torch": results[True]}


def start(options: Start) -> dict[str, Any]:
    """Measure, print, and return what goes into the JSON."""
    from stream_bytes import files_of
    from stream_data import copies
    from stream_processes import run

    from data_pipeline.text_table import text_table

    manifest = copies(Path(options.work), Path(options.images), options.shards, options.each)
    for path in files_of(manifest):
        path.read_bytes()
    job = {"folder": str(manifest.folder), "batch_size": options.batch_size, "size": options.size}
    rounds: list[dict[str, Any]] = []
    for _ in range(options.rounds):
        rounds += [run("stream_startup.py", {**job, "workers": workers}) for workers in options.workers]
    rows = []
    for workers in options.workers:
        found = [one for one in rounds if one["job"]["workers"] == workers]
        steps = [median(one["seconds"][step] for one in found) for step in found[0]["seconds"]]
        rows.append([workers, *steps, median(one["own_cpu_seconds"] for one in found)])
    print(text_table(["workers", *rounds[0]["seconds"], "own CPU to first batch"], rows))
    print(f"seconds after the imports, which take {median(one['import_seconds'] for one in rounds):.2f} s")
    return {"rounds": rounds}


def count_bytes(options: Bytes) -> dict[str, Any]:
    """Measure, print, and return what goes into the JSON."""
    from stream_bytes import files_of, from_disk, from_server
    from stream_data import copies

    from data_pipeline.text_table import text_table

    world, work = 2, Path(options.work)
    manifest = copies(work, Path(options.images), options.shards, options.each)
    whole = sum(path.stat().st_size for path in files_of(manifest))
    job = {
        "data": str(manifest.folder),
        "world": world,
        "workers": 2,
        "batch_size": options.batch_size,
        "size": options.size,
    }
    jobs = [{**job, "rank": rank} for rank in range(world)]
    results = {}
    for name in (*_DISK, *_SERVER):
        if options.only and not name.startswith(options.only):
            continue
        if name in _DISK:
            results[name] = from_disk(manifest, jobs, together=name == _DISK[0])
        else:
            results[name] = from_server(manifest, jobs, work, shared=name == _SERVER[0])
    print(f"the dataset has {whole:,} bytes; those of the start are in those of the epoch")
    columns = ["bytes", "start", "blocks", "blocks again", "indexes and manifest"]
    rows = [
        [name, f"{found['bytes'] / whole:.3f}", *(f"{found[key]:,}" if key in found else "-" for key in columns)]
        for name, found in results.items()
    ]
    print(text_table(["an epoch", "x dataset", *columns], rows))
    return {"dataset_bytes": whole, "results": results}


def _check_positive(options: object, *names: str) -> None:
    for name in names:
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}, expected at least 1")


def _milliseconds(found: Sequence[dict[str, float]]) -> str:
    return ", ".join(f"{step} {1000 * median(one[step] for one in found):.0f}" for step in found[0])


def main(options: Resume | Start | Bytes) -> None:
    """Measure, print a table, write the JSON."""
    from machine import describe_machine, machine_line

    from launch.atomic import write_json

    described = describe_machine(_DISTRIBUTIONS)  # before the work of this benchmark is part of the load
    print(machine_line(described))
    try:
        if isinstance(options, Resume):
            result = resume(options)
        else:
            result = start(options) if isinstance(options, Start) else count_bytes(options)
    except ValueError as error:
        raise SystemExit(f"stream.py: {error}") from None
    if options.out:
        write_json(Path(options.out), {**described, "options": asdict(options), **result})


if __name__ == "__main__":
    assert __doc__ is not None
    main(parse_command(__doc__, {"resume": Resume, "start": Start, "bytes": Bytes})[1])
