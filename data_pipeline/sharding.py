"""A source becomes a dataset folder: a pass over all images, the shards in parallel, then the manifest."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_pipeline.config import DIGITS, ShardConfig
from data_pipeline.corpus import Corpus, list_source, survey
from data_pipeline.dataset_folder import DatasetFolder
from data_pipeline.description import (
    QUARANTINE,
    TIMM_INFO,
    broken_samples,
    describe_split,
    statistics_of,
    timm_info,
    write_quarantine,
)
from data_pipeline.engines import Engine, open_engine
from data_pipeline.listing import Listings, read_listing
from data_pipeline.manifest import DatasetError, Manifest, Split, write_manifest
from data_pipeline.open_source import open_source
from data_pipeline.shard_content import Encoding, SplitFormat
from data_pipeline.shard_plan import Plan, SplitPlan, Wanted, make_plan, order_file
from data_pipeline.shard_writer import ShardRecord, ShardTask
from data_pipeline.sources import Outline, Source
from launch.atomic import write_json
from launch.console import Console, format_rate
from launch.lock import WorldLock
from launch.strict_json import closest

_LEFT_OUT = {"duplicates": "the bytes of an earlier image", "near_duplicates": "they look like an earlier image"}


def shard_dataset(config: ShardConfig, console: Console) -> Manifest:
    """Write, finish or repair the dataset folder that a config describes; returns its manifest.

    Raises:
        ValueError: a source without images, a folder that holds something else, an option that does not fit.
        DatasetError: the dataset is finished, but a file of it is missing or has another size.
        WorkerDiedError, FolderInUseError, OSError: as their messages say.
    """
    folder = DatasetFolder(Path(config.out).absolute())  # as tasks on other machines must have it
    manifest = folder.finished(config.reproducing)
    if manifest is None:
        if config.only:
            raise ValueError(
                f"--only {config.only[0]}: {config.out} holds no finished dataset; run without --only first"
            )
        folder.check(config.reproducing)
    source = open_source(_with_absolute_source(config), folder.work / "spool")
    job = _Job(config, folder, source, source.outline(), console)
    if manifest is None:
        fresh = not folder.work.exists()
        try:
            with WorldLock(folder.work):
                manifest = job.write()
        except (ValueError, OSError):
            if fresh and not folder.listing.exists():
                folder.abandon()
            raise
        folder.end()
        return manifest
    try:
        with WorldLock(folder.work):
            job.look_again(manifest)
    finally:
        folder.end()
    return manifest


@dataclass(frozen=True)
class _Job:
    config: ShardConfig
    folder: DatasetFolder
    source: Source
    outline: Outline
    console: Console

    def write(self) -> Manifest:
        """All shards, then what describes them, the manifest last."""
        if self.folder.begin(self.config.reproducing):
            self.console.say(f"{self.folder.path}: unfinished; goes on, shards that are whole are kept")
        began = time.monotonic()
        listings = self._list()
        with open_engine(self.config, self.folder.work, self.console.say) as engine:
            corpus = survey(self.config, self.source, listings, folder=self.folder, engine=engine, console=self.console)
            for note in corpus.selection.notes:
                self.console.say(f"  {note}")
            records = self._write_shards(engine, self._tasks(corpus.plan, corpus.layouts), corpus.plan.samples)
        seconds = time.monotonic() - began
        manifest = self._describe(corpus, listings, records)
        write_quarantine(self.folder.path, corpus.selection.dropped, records)
        self._keep(corpus.selection.near_duplicates)
        write_json(self.folder.path / TIMM_INFO, timm_info(manifest))
        write_manifest(manifest)
        self._report(manifest, corpus.plan.samples, seconds)
        return manifest

    def look_again(self, manifest: Manifest) -> None:
        """Whether the source of a finished dataset is still the same, and all files are there; write `--only` again."""
        if self.config.streaming and not self.config.only:
            self.folder.check_sizes(manifest)
            self.console.say(f"{self.config.out}: finished already; nothing to do")
            return
        self.folder.begin(self.config.reproducing)
        listings = self._list()
        if manifest.made["listing"] != listings.digest:
            there = manifest.made["listed"]
            raise ValueError(
                f"--source {self.config.source}: other images than when {self.config.out} was written from it "
                f"({_counts(listings)} now, {', '.join(f'{name} {count:,}' for name, count in there.items())} there); "
                "the folder is left as it is. Give another --out"
            )
        if not self.config.only:
            self.folder.check_sizes(manifest)
            self.console.say(f"{self.config.out}: finished already; nothing to do")
            return
        tasks = list(self._rewriting_tasks(manifest, listings))
        with open_engine(self.config, self.folder.work, self.console.say) as engine:
            self._write_shards(engine, iter(tasks), None)
        for task in tasks:
            self.console.say(f"{task}: written again, the same bytes as the manifest lists")

    def _list(self) -> Listings:
        list_source(self.config, self.source, self.outline, self.folder, self.console)
        listings = read_listing(self.folder.listing)
        assert listings is not None
        classes = len(listings.classes or ()) or "no"
        self.console.say(f"{self.outline.description}: {_counts(listings)} images, {classes} classes")
        for note in (*self.outline.notes, *listings.notes):
            self.console.say(f"  {note}")
        return listings

    def _tasks(self, plan: Plan, layouts: dict[str, SplitFormat]) -> Iterator[ShardTask]:
        for split, shard in plan.all_shards():
            yield self._task(plan, split, shard, layouts[split.split])

    def _rewriting_tasks(self, manifest: Manifest, listings: Listings) -> Iterator[ShardTask]:
        plan = self._plan_of(manifest, listings)
        listed = {shard.file: (split, shard) for split in manifest.splits.values() for shard in split.shards}
        for name in dict.fromkeys(self.config.only):
            file = name if name.endswith(".tar") else f"{name}.tar"
            found = [(split, shard) for split, shard in plan.all_shards() if split.names(shard).file == file]
            if file not in listed or not found:
                raise ValueError(
                    f"--only {name}: {self.config.out} has no such shard. Did you mean {closest(file, listed)}?"
                )
            described, expected = listed[file]
            layout = SplitFormat(described.extension, described.channels, described.dtype)
            yield self._task(plan, *found[0], layout, expected)

    def _plan_of(self, manifest: Manifest, listings: Listings) -> Plan:
        """The plan that the shards of a finished dataset were written by, from the order that it keeps."""
        wanted = {}
        for split, (source_split, size) in manifest.made["orders"].items():
            numbers = order_file(self.folder.path, split)
            if not numbers.is_file():
                raise DatasetError(f"{numbers}: missing; write the whole dataset again, to another --out")
            wanted[split] = Wanted(listings.splits[source_split], numbers, size)
        plan = make_plan(wanted, listings.classes, listings.digest, self.config.shard_size)
        if plan.digest != manifest.made["plan"]:
            raise DatasetError(
                f"{self.folder.path}: the order of its samples (__index__/*-order.npy) is not the one that the "
                "manifest was made with; write the whole dataset again, to another --out"
            )
        return plan

    def _task(self, plan: Plan, split: SplitPlan, shard: int, layout: SplitFormat, expected: Any = None) -> ShardTask:
        encoding = Encoding(self.config.short_side, self.config.quality)
        annotated = self.outline.annotated and self.config.metadata != "none"
        identity = json.dumps([plan.digest, self._versions(), layout, encoding, annotated])
        return ShardTask(
            source=self.source,
            folder=self.folder.path,
            plan=split,
            number=shard,
            layout=layout,
            encoding=encoding,
            annotated=annotated,
            digest=hashlib.sha256(identity.encode()).hexdigest(),
            expected=expected,
        )

    def _write_shards(self, engine: Engine, tasks: Iterator[ShardTask], total: int | None) -> list[ShardRecord]:
        with self.console.progress(total, label="sharded") as progress:
            records = list(engine.run(tasks, progress.advance))
        return sorted(records, key=lambda record: record.shard.file)

    def _describe(self, corpus: Corpus, listings: Listings, records: list[ShardRecord]) -> Manifest:
        plan, splits = corpus.plan, {}
        classes = len(plan.classes or ())
        for split in plan.splits:
            own = [record for record in records if record.split == split.split]
            splits[split.split] = described = describe_split(own, corpus.layouts[split.split], classes)
            if not described.shards:
                _, name, reason = next(broken_samples(self.folder.path, own))
                raise ValueError(
                    f"--source {self.config.source}: none of the {split.samples:,} images of split {split.split} "
                    f"can be read; {name}: {reason}"
                )
        measured = "train" if "train" in splits else next(iter(splits))
        made = {
            "command": self.config.command,
            "options": self.config.reproducing,
            "source": self.outline.description,
            "seed": self.config.seed,
            "listing": listings.digest,
            "listed": {name: len(listing) for name, listing in listings.splits.items()},
            "orders": {split.split: [split.listing.split, split.bytes] for split in plan.splits},
            "plan": plan.digest,
            "versions": self._versions(),
            "quarantined": sum(r.broken for r in records),
            "dropped": dict(corpus.selection.counts),
            "converted": sum(r.converted for r in records),
            "foreign": sum(r.foreign for r in records),
            "shrunk": sum(r.shrunk for r in records),
            "annotated": self.outline.annotated and self.config.metadata != "none",
        }
        own = [record for record in records if record.split == measured]
        statistics = statistics_of(own, corpus.layouts[measured].dtype)
        return Manifest(self.folder.path, plan.classes, statistics, made, splits)

    def _versions(self) -> dict[str, str]:
        ours = {name: version(name) for name in ("sherd", "numpy", "pillow", "simplejpeg")}
        return ours | dict(self.outline.versions)

    def _keep(self, near_duplicates: Path | None) -> None:
        if near_duplicates is not None:
            kept = self.folder.path / "near_duplicates.jsonl"
            alike = near_duplicates.stat().st_size > 0
            near_duplicates.replace(kept)
            self.console.say(f"images that look alike: {kept} lists them" if alike else "no images look alike")

    def _report(self, manifest: Manifest, samples: int, seconds: float) -> None:
        say, made, out = self.console.say, manifest.made, self.config.out
        for name, split in manifest.splits.items():
            say(f"{name}: {_size(split)}")
        say(f"classes: {len(manifest.classes) if manifest.classes else 'none'}")
        if made["shrunk"]:
            say(f"{made['shrunk']:,} images were encoded anew with a short side of {self.config.short_side} pixels")
        if made["converted"]:
            say(f"{made['converted']:,} images that are not PNG were encoded as PNG, without loss")
        if made["foreign"]:
            total = sum(split.samples for split in manifest.splits.values() if split.extension == "jpg")
            say(f"{made['foreign']:,} of {total:,} are not JPEG: kept byte for byte under .jpg; they decode slower")
        for reason, count in made["dropped"].items():
            say(f"{count:,} left out: {_LEFT_OUT.get(reason) or '--' + reason.replace('_', '-')}")
        if made["quarantined"]:
            say(f"{made['quarantined']:,} broken images left out")
        if made["quarantined"] or made["dropped"]:
            say(f"{self.folder.path / QUARANTINE} lists what was left out, each with its reason")
        say(f"{out}: written at {format_rate(samples / max(seconds, 1e-9))} images/s")
        recipe = "digits" if self.config.source == DIGITS else "RECIPE"
        say(f"next: python pretrain/mae.py {recipe} --data {out} --out runs/x")


def _with_absolute_source(config: ShardConfig) -> ShardConfig:
    """For workers that were started elsewhere; messages show paths as they were typed wherever that serves."""
    if config.engine == "processes" or not os.path.exists(config.source):
        return config
    return replace(config, source=os.path.abspath(config.source))


def _counts(listings: Listings) -> str:
    return ", ".join(f"{name} {len(listing):,}" for name, listing in listings.splits.items())


def _size(split: Split) -> str:
    kind = f"{split.extension} ({split.channels} x {split.dtype})" if split.extension == "npy" else split.extension
    return f"{split.samples:,} samples as {kind}, {len(split.shards)} shards, {split.bytes:,} bytes"
