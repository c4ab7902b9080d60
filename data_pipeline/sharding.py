"""A source becomes a dataset folder: look at the formats, write the shards in parallel, then the manifest."""

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_pipeline.config import DIGITS, ShardConfig
from data_pipeline.dataset_folder import DatasetFolder
from data_pipeline.decode import sniff
from data_pipeline.manifest import Manifest, Split, Statistics, write_manifest
from data_pipeline.shard_plan import INDEX_FOLDER, Plan, SplitPlan, make_plan
from data_pipeline.shard_writer import ShardRecord, ShardTask
from data_pipeline.sources import Contents, Entry, Source, open_source
from data_pipeline.task_pool import Report, TaskPool
from launch.atomic import write_atomically, write_json
from launch.console import Console, format_rate
from launch.lock import WorldLock
from launch.strict_json import closest

QUARANTINE = "quarantine.jsonl"
TIMM_INFO = "_info.json"

_SNIFFED_BYTES = 16
_SNIFFED_AT_ONCE = 500


def shard_dataset(config: ShardConfig, console: Console) -> Manifest:
    """Write, finish or repair the dataset folder that a config describes; returns its manifest.

    Raises:
        ValueError: a source without images, a folder that holds something else, an option that does not fit.
        DatasetError: the dataset is finished, but a file of it is missing or has another size.
        WorkerDiedError, FolderInUseError, OSError: as their messages say.
    """
    folder = DatasetFolder(Path(config.out))
    manifest = folder.finished(config.reproducing)
    if manifest is None:
        if config.only:
            raise ValueError(
                f"--only {config.only[0]}: {config.out} holds no finished dataset; run without --only first"
            )
        folder.check(config.reproducing)
    source = open_source(config.source, config.labels, config.image_column, config.label_column)
    contents = source.list_images()
    plan = make_plan(contents, config.seed, config.shard_size)
    counts = ", ".join(f"{split.split} {len(split.listing):,}" for split in plan.splits)
    console.say(f"{contents.description}: {counts} images, {len(plan.classes or ()) or 'no'} classes")
    for note in contents.notes:
        console.say(f"  {note}")
    job = _Job(config, folder, source, contents, plan, console)
    if manifest is None:
        with WorldLock(folder.work):
            manifest = job.write()
        folder.end()
        return manifest
    if manifest.made["plan"] != plan.digest:
        raise ValueError(
            f"--source {config.source}: other images than when {config.out} was written from it ({counts} now, "
            f"{', '.join(f'{name} {split.samples:,}' for name, split in manifest.splits.items())} there); "
            "the folder is left as it is. Give another --out"
        )
    if config.only:
        try:
            with WorldLock(folder.work):
                job.rewrite(manifest)
        finally:
            folder.end()
    else:
        folder.end()
        folder.check_sizes(manifest)
        console.say(f"{config.out}: finished already; nothing to do")
    return manifest


@dataclass(frozen=True)
class _SniffTask:
    source: Source
    split: str
    entries: tuple[Entry, ...]

    def __str__(self) -> str:
        return f"the first bytes of {self.entries[0].name} and those after it"

    def run(self, report: Report) -> tuple[str, Counter[str]]:
        formats = Counter()
        for entry in self.entries:
            formats[sniff(self.source.read(self.split, entry, _SNIFFED_BYTES))] += 1
            report(1)
        return self.split, formats


@dataclass(frozen=True)
class _Job:
    config: ShardConfig
    folder: DatasetFolder
    source: Source
    contents: Contents
    plan: Plan
    console: Console

    def write(self) -> Manifest:
        """All shards, then what describes them, the manifest last."""
        if self.folder.begin(self.config.reproducing, self.plan.digest):
            self.console.say(f"{self.folder.path}: unfinished; goes on, shards that are whole are kept")
        began = time.monotonic()
        with TaskPool(self.config.processes) as pool:
            extensions = self._choose_extensions(pool)
            records = self._write_shards(pool, self._tasks(extensions))
        seconds = time.monotonic() - began
        manifest = self._describe(extensions, records)
        quarantined = sorted((r.split, name, reason) for r in records for name, reason in r.quarantined)
        if quarantined:
            lines = (dict(zip(("split", "name", "reason"), broken, strict=True)) for broken in quarantined)
            text = "".join(f"{json.dumps(line)}\n" for line in lines)
            write_atomically(self.folder.path / QUARANTINE, text)
        write_json(self.folder.path / TIMM_INFO, _timm_info(manifest))
        write_manifest(manifest)
        self._report(manifest, seconds)
        return manifest

    def rewrite(self, manifest: Manifest) -> None:
        """The shards named by `--only`, each replaced only by the same bytes."""
        tasks = list(self._rewriting_tasks(manifest))
        (self.folder.path / INDEX_FOLDER).mkdir(exist_ok=True)
        with TaskPool(self.config.processes) as pool:
            self._write_shards(pool, iter(tasks))
        for task in tasks:
            self.console.say(f"{task}: written again, the same bytes as the manifest lists")

    def _choose_extensions(self, pool: TaskPool) -> dict[str, str]:
        formats: dict[str, Counter[str]] = {}
        with self.console.progress(self.plan.samples, label="looked at") as progress:
            for split, found in pool.run(self._sniff_tasks(), progress.advance):
                formats[split] = formats.get(split, Counter()) + found
        return {split: "jpg" if 2 * found["jpg"] >= found.total() else "png" for split, found in formats.items()}

    def _sniff_tasks(self) -> Iterator[_SniffTask]:
        for plan in self.plan.splits:
            for start in range(0, len(plan.listing), _SNIFFED_AT_ONCE):
                numbers = range(start, min(start + _SNIFFED_AT_ONCE, len(plan.listing)))
                yield _SniffTask(self.source, plan.split, tuple(plan.listing.entry(number) for number in numbers))

    def _tasks(self, extensions: dict[str, str]) -> Iterator[ShardTask]:
        for split, shard in self.plan.all_shards():
            yield self._task(split, shard, extensions[split.split])

    def _rewriting_tasks(self, manifest: Manifest) -> Iterator[ShardTask]:
        listed = {shard.file: (split.extension, shard) for split in manifest.splits.values() for shard in split.shards}
        for name in dict.fromkeys(self.config.only):
            file = name if name.endswith(".tar") else f"{name}.tar"
            found = self.plan.find(file)
            if file not in listed or found is None:
                raise ValueError(
                    f"--only {name}: {self.config.out} has no such shard. Did you mean {closest(file, listed)}?"
                )
            yield self._task(*found, *listed[file])

    def _task(self, split: SplitPlan, shard: int, extension: str, expected: Any = None) -> ShardTask:
        digest = hashlib.sha256(json.dumps([self.plan.digest, self._versions()]).encode()).hexdigest()
        return ShardTask(
            source=self.source,
            folder=self.folder.path,
            split=split.split,
            names=split.names(shard),
            prefix=split.prefix,
            extension=extension,
            first=split.starts[shard],
            entries=split.entries(shard),
            size=split.size(shard),
            digest=digest,
            expected=expected,
        )

    def _write_shards(self, pool: TaskPool, tasks: Iterator[ShardTask]) -> list[ShardRecord]:
        total = self.plan.samples if not self.config.only else None
        with self.console.progress(total, label="sharded") as progress:
            records = list(pool.run(tasks, progress.advance))
        return sorted(records, key=lambda record: record.shard.file)

    def _describe(self, extensions: dict[str, str], records: list[ShardRecord]) -> Manifest:
        splits = {}
        for plan in self.plan.splits:
            shards = tuple(r.shard for r in records if r.split == plan.split and r.shard.samples)
            if not shards:
                broken = min(broken for r in records if r.split == plan.split for broken in r.quarantined)
                raise ValueError(
                    f"--source {self.config.source}: none of the {len(plan.listing):,} images of split {plan.split} "
                    f"can be read; {broken[0]}: {broken[1]}"
                )
            splits[plan.split] = Split(extensions[plan.split], shards)
        measured = "train" if "train" in splits else next(iter(splits))
        made = {
            "command": self.config.command,
            "options": self.config.reproducing,
            "source": self.contents.description,
            "seed": self.config.seed,
            "plan": self.plan.digest,
            "versions": self._versions(),
            "quarantined": sum(len(r.quarantined) for r in records),
            "converted": sum(r.converted for r in records),
            "foreign": sum(r.foreign for r in records),
        }
        statistics = _statistics([r for r in records if r.split == measured])
        return Manifest(self.folder.path, self.plan.classes, statistics, made, splits)

    def _versions(self) -> dict[str, str]:
        ours = {name: version(name) for name in ("sherd", "numpy", "pillow", "simplejpeg")}
        return ours | self.contents.versions

    def _report(self, manifest: Manifest, seconds: float) -> None:
        say, made, out = self.console.say, manifest.made, self.config.out
        for name, split in manifest.splits.items():
            size = f"{len(split.shards)} shards, {split.bytes:,} bytes"
            say(f"{name}: {split.samples:,} samples as {split.extension}, {size}")
        say(f"classes: {len(manifest.classes) if manifest.classes else 'none'}")
        if made["converted"]:
            say(f"{made['converted']:,} images that are not PNG were encoded as PNG, without loss")
        if made["foreign"]:
            total = sum(split.samples for split in manifest.splits.values() if split.extension == "jpg")
            say(f"{made['foreign']:,} of {total:,} are not JPEG: kept byte for byte under .jpg; they decode slower")
        if made["quarantined"]:
            say(f"{made['quarantined']:,} broken images left out: {self.folder.path / QUARANTINE} lists them")
        say(f"{out}: written at {format_rate(self.plan.samples / max(seconds, 1e-9))} images/s")
        recipe = "digits" if self.config.source == DIGITS else "RECIPE"
        say(f"next: python pretrain/mae.py {recipe} --data {out} --out runs/x")


def _statistics(records: list[ShardRecord]) -> Statistics:
    """From exact integer sums, so that the order in which shards were counted does not matter."""
    counts = [sum(column) for column in zip(*(record.histogram for record in records), strict=True)]
    mean, std = [], []
    for channel in (counts[0:256], counts[256:512], counts[512:768]):
        pixels = sum(channel)
        total = sum(value * count for value, count in enumerate(channel))
        squares = sum(value * value * count for value, count in enumerate(channel))
        mean.append(total / pixels / 255)
        std.append(math.sqrt((squares * pixels - total * total) / (pixels * pixels)) / 255)
    filled = [record for record in records if record.shard.samples]
    smallest = min(r.smallest[0] for r in filled), min(r.smallest[1] for r in filled)
    largest = max(r.largest[0] for r in filled), max(r.largest[1] for r in filled)
    return Statistics(tuple(mean), tuple(std), smallest, largest)


def _timm_info(manifest: Manifest) -> dict[str, Any]:
    splits = {
        name: {
            "name": name,
            "num_samples": split.samples,
            "filenames": [shard.file for shard in split.shards],
            "shard_lengths": [shard.samples for shard in split.shards],
        }
        for name, split in manifest.splits.items()
    }
    return {"name": "sherd", "splits": splits}
