"""`--index-only`: existing WebDataset tars stay where they are; an index of each and a manifest make them a dataset."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_pipeline.config import ShardConfig
from data_pipeline.dataset_folder import DatasetFolder
from data_pipeline.decode import DecodeError, read_strictly
from data_pipeline.description import (
    QUARANTINE,
    TIMM_INFO,
    describe_split,
    statistics_of,
    timm_info,
    write_quarantine,
)
from data_pipeline.engines import open_engine
from data_pipeline.index_task import IndexTask
from data_pipeline.location import RemotePath
from data_pipeline.manifest import NO_LABEL, Manifest, key_prefix, write_manifest
from data_pipeline.shard_content import SplitFormat
from data_pipeline.shard_writer import ShardRecord
from data_pipeline.tar_files import TarFiles, find_tars
from data_pipeline.tar_members import TarReader, choose_image
from launch.atomic import write_json
from launch.console import Console
from launch.lock import WorldLock

_LOOKED_AT = 1000  # samples, for the first that can be read


def index_dataset(config: ShardConfig, console: Console) -> Manifest:
    """Index the tars that a config names, beside them or in another folder; returns the manifest.

    Images that are broken or unlike the others of their split are not in the index, and listed in quarantine.jsonl.

    Raises:
        ValueError: no tars, no images in them, or a folder that holds something else.
        DatasetError, WorkerDiedError, FolderInUseError, OSError: as their messages say.
    """
    folder = DatasetFolder(Path(config.out).absolute())
    manifest = folder.finished(config.reproducing)
    if manifest is not None:
        folder.check_sizes(manifest)
        console.say(f"{config.out}: finished already; nothing to do")
        return manifest
    tars = find_tars(config.source)
    in_place = isinstance(tars.folder, Path) and tars.folder.resolve() == folder.path.resolve()
    folder.check(config.reproducing, in_place=in_place)
    with WorldLock(folder.work):
        folder.begin(config.reproducing)
        manifest = _Indexing(config, folder, tars, in_place, console).write()
    folder.end()
    return manifest


@dataclass(frozen=True)
class _Indexing:
    config: ShardConfig
    folder: DatasetFolder
    tars: TarFiles
    in_place: bool
    console: Console

    def write(self) -> Manifest:
        """The indexes, then what describes them, the manifest last."""
        count = sum(map(len, self.tars.splits.values()))
        self.console.say(f"{self.tars}: {count:,} tars, indexed where they are")
        layouts = {split: self._layout(files) for split, files in self.tars.splits.items()}
        with (
            open_engine(self.config, self.folder.work, self.console.say) as engine,
            self.console.progress(count, label="indexed", unit="tars") as progress,
        ):
            records = list(engine.run(self._tasks(layouts), progress.advance))
        records.sort(key=lambda record: (record.split, record.shard.index))
        manifest = self._describe(records, layouts)
        write_quarantine(self.folder.path, None, records)
        if self.in_place and not (self.folder.path / TIMM_INFO).exists():
            write_json(self.folder.path / TIMM_INFO, timm_info(manifest))
        write_manifest(manifest)
        self._report(manifest)
        return manifest

    def _tasks(self, layouts: dict[str, SplitFormat]) -> Iterator[IndexTask]:
        for split, files in self.tars.splits.items():
            for number, file in enumerate(files):
                identity = json.dumps([str(self.tars), file, self.config.reproducing, layouts[split], _versions()])
                yield IndexTask(
                    tars=self.tars.folder.absolute() if isinstance(self.tars.folder, Path) else self.tars.folder,
                    file=file,
                    folder=self.folder.path,
                    split=split,
                    stem=f"{key_prefix(split)}-{number:06d}",
                    layout=layouts[split],
                    label=None if self.config.labels == "none" else _extension(self.config.label_column or "cls"),
                    image=_extension(self.config.image_column),
                    digest=hashlib.sha256(identity.encode()).hexdigest(),
                )

    def _layout(self, files: Sequence[str]) -> SplitFormat:
        """The first image that can be read decides what the others of its split must be."""
        looked_at = 0
        for file in files:
            with TarReader(self.tars.folder / file) as tar:
                for sample in tar.samples():
                    image = choose_image(sample, _extension(self.config.image_column))
                    looked_at += 1
                    if looked_at > _LOOKED_AT:
                        break
                    if image is None:
                        continue
                    try:
                        facts, _ = read_strictly(tar.read(image))
                    except DecodeError:
                        continue
                    return SplitFormat(image.extension, facts.channels, facts.dtype)
        raise ValueError(
            f"--source {self.tars}: no image in the first {looked_at:,} samples can be read; expected members such as "
            ".jpg, .png, .webp or .npy, or the extension named by --image-column"
        )

    def _describe(self, records: list[ShardRecord], layouts: dict[str, SplitFormat]) -> Manifest:
        largest = max((int(label) for record in records for label in record.labels), default=NO_LABEL)
        classes = tuple(map(str, range(largest + 1)))
        splits = {}
        for split in self.tars.splits:
            own = [record for record in records if record.split == split]
            splits[split] = describe_split(own, layouts[split], len(classes))
        measured = "train" if "train" in splits else next(iter(splits))
        made: dict[str, Any] = {
            "command": self.config.command,
            "options": self.config.reproducing,
            "source": f"WebDataset tars {self.tars}",
            "versions": _versions(),
            "quarantined": sum(record.broken for record in records),
            "dropped": {},
        }
        own = [record for record in records if record.split == measured]
        statistics = statistics_of(own, layouts[measured].dtype)
        at = None if self.in_place else _address(self.tars.folder)
        return Manifest(self.folder.path, classes or None, statistics, made, splits, at)

    def _report(self, manifest: Manifest) -> None:
        for name, split in manifest.splits.items():
            self.console.say(f"{name}: {split.samples:,} samples in {len(split.shards):,} tars, {split.bytes:,} bytes")
        self.console.say(f"classes: {len(manifest.classes) if manifest.classes else 'none'}")
        if manifest.made["quarantined"]:
            listed = self.folder.path / QUARANTINE
            self.console.say(f"{manifest.made['quarantined']:,} images are left out of the index: {listed} says why")
        self.console.say(f"next: python pretrain/mae.py RECIPE --data {self.config.out} --out runs/x")


def _extension(asked: str | None) -> str | None:
    return asked and asked.lower().removeprefix(".")


def _address(folder: Path | RemotePath) -> str:
    if isinstance(folder, Path):
        return str(folder.resolve())
    if str(folder) != folder.url:
        raise ValueError(
            f"--source {folder}: a URL with credentials, which the manifest would have to keep; give them where the "
            "store's library looks for them: environment or config file"
        )
    return folder.url


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("sherd", "numpy", "pillow", "simplejpeg")}
