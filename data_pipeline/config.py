"""The options of `shard.py`: frozen, and free of heavy imports, so that `--help` answers at once."""

import os
import shlex
from dataclasses import dataclass, field
from typing import Any, Literal

from launch.hub_config import HubConfig, check_license, check_repository

DIGITS = "digits"


@dataclass(frozen=True)
class SlurmConfig:
    """Of `--engine slurm`: how the array of jobs is asked for."""

    partition: str | None = None
    """By default the cluster's own."""
    account: str | None = None
    """Who pays, where the cluster asks."""
    memory: str | None = None
    """Of each job, such as 4GB; by default what the cluster gives to one core."""
    minutes: int = 240
    """Time limit of each job; what is not done then is done by giving the command again."""
    jobs: int = 64
    """Most jobs of the array; each has one core and works through its share of the tasks."""

    def __post_init__(self) -> None:
        if self.minutes < 1 or self.jobs < 1:
            raise ValueError(f"--slurm.minutes {self.minutes}, --slurm.jobs {self.jobs}: expected at least 1 of each")


@dataclass(frozen=True)
class ShardConfig:
    """What is sharded, and how."""

    source: str
    """`digits`; a folder of images; parquet or arrow files; a .csv, .tsv or .parquet list of paths and URLs; WebDataset
    tars (a folder of them, one, or a URL with braces); a folder that `datasets` reads; a dataset's name on the Hub."""
    out: str
    """The dataset folder to write; a killed run goes on in it."""
    workers: int = 0
    """Processes that read, check and write; 0: one for each core. The written bytes do not depend on it."""
    shard_size: int = 256_000_000
    """Image bytes a shard, about."""
    seed: int = 0
    """Of the order in which samples are spread over the shards."""
    labels: Literal["auto", "none"] = "auto"
    """`auto`: class folders, a label column or .cls members, where there are any; `none`: images only."""
    metadata: Literal["auto", "none"] = "auto"
    """`auto`: what else the source tells of an image goes into its .json: other columns, sidecar files, members."""
    image_column: str | None = None
    """Of a table or list: by default the first column of images, or of paths. Of tars: the extension of a member."""
    label_column: str | None = None
    """Of a table or list: by default the first of class labels; lists are kept as several labels. Of tars: cls."""
    config: str | None = None
    """Of a Hub dataset that has several: which of them."""
    revision: str | None = None
    """Of a Hub dataset: branch, tag or commit."""
    streaming: bool = False
    """Read a Hub dataset as a stream: only its images are kept, in the folder, until the shards are written."""
    take: int | None = None
    """Only the first so many images of each split, as listed."""
    index_only: bool = False
    """Leave existing WebDataset tars where they are, and write the indexes and the manifest into --out."""
    short_side: int | None = None
    """Encode larger images anew as JPEG with this short side, in pixels; otherwise every byte is kept."""
    quality: int = 90
    """Of the JPEGs that --short-side makes, 1 to 100."""
    min_side: int | None = None
    """Leave out images with a shorter side than this, in pixels."""
    max_pixels: int | None = None
    """Leave out images of more pixels than this."""
    max_aspect: float | None = None
    """Leave out images whose long side is more than so many times the short one."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Of images with the same bytes in a split, all but the first are left out."""
    near_duplicates: Literal["ignore", "report", "drop"] = "ignore"
    """Images that look the same (perceptual hashes differ in 3 of 64 bits at most): list them, or leave them out."""
    holdout: float = 0.0
    """Share of the split `train` that becomes `validation`, chosen by content: the same images whatever is added."""
    engine: Literal["processes", "slurm", "dask"] = "processes"
    """Where the work is done: processes here, a Slurm array, or a Dask cluster."""
    scheduler: str | None = None
    """Of `--engine dask`: the scheduler's address, such as tcp://host:8786."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    dry_run: bool = False
    """Write nothing: list the images, read one in a hundred, and tell what the dataset would come to."""
    only: tuple[str, ...] = ()
    """Write only these shards of a finished dataset again: `--only train-000017.tar`."""
    push: str | None = None
    """Then upload it, with a card, as this dataset of the Hub: user/name. Only what is not there yet is sent."""
    license: str = "other"
    """Of `--push`: what the card says of the images' licence, as the Hub spells it, such as cc-by-4.0."""
    hub: HubConfig = field(default_factory=HubConfig)

    def __post_init__(self) -> None:
        if not self.source or not self.out:
            raise ValueError("--source and --out must not be empty")
        if self.workers < 0:
            raise ValueError(f"--workers is {self.workers}, expected at least 1, or 0 for one worker a core")
        if self.shard_size < 1:
            raise ValueError(f"--shard-size is {self.shard_size}, expected a number of bytes, at least 1")
        if self.labels == "none" and self.label_column is not None:
            raise ValueError(f"--labels none and --label-column {self.label_column} contradict each other: drop one")
        for name in ("take", "short_side", "min_side", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {value}, expected at least 1")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"--quality is {self.quality}, expected 1 to 100")
        if self.max_aspect is not None and self.max_aspect < 1:
            raise ValueError(f"--max-aspect is {self.max_aspect}, expected at least 1: long side over short side")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"--holdout is {self.holdout}, expected a share of the images, at least 0 and below 1")
        if (self.engine == "dask") != (self.scheduler is not None):
            raise ValueError("--engine dask and --scheduler ADDRESS go together: give both or neither")
        if self.index_only:
            self._check_index_only()
        self._check_push()

    def _check_push(self) -> None:
        check_license(self.license)
        if self.push is not None:
            check_repository(self.push)
        elif self.license != "other" or self.hub != HubConfig():
            raise ValueError("--license and --hub.* are of the upload: give --push user/name too, or drop them")

    def _check_index_only(self) -> None:
        ours, plain = vars(self), {name: field.default for name, field in self.__dataclass_fields__.items()}
        options = ("short_side", "quality", "min_side", "max_pixels", "max_aspect", "near_duplicates", "holdout")
        dry_run = () if self.push is not None else ("dry_run",)
        for name in (*options, "take", "streaming", "duplicates", "only", *dry_run):
            if ours[name] != plain[name]:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"--index-only leaves the tars as they are: drop {option}, or --index-only")

    @property
    def processes(self) -> int:
        """How many worker processes to start: at most one for each core that this process may use, unless asked."""
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.workers or usable

    @property
    def reproducing(self) -> dict[str, Any]:
        """The options that decide which bytes are written, as they were typed; the first few with their defaults."""
        always = ("source", "shard_size", "seed", "labels")
        deciding = (
            *("metadata", "image_column", "label_column", "config", "revision", "streaming", "take", "index_only"),
            *("short_side", "quality", "min_side", "max_pixels", "max_aspect", "duplicates", "near_duplicates"),
            "holdout",
        )
        options = {name: getattr(self, name) for name in always}
        for name in deciding:
            if getattr(self, name) != self.__dataclass_fields__[name].default:
                options[name] = getattr(self, name)
        return {name.replace("_", "-"): value for name, value in options.items()}

    @property
    def command(self) -> str:
        """`reproducing` as words for a shell."""
        words = []
        for name, value in self.reproducing.items():
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return shlex.join(words)
