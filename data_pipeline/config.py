"""The options of the entry scripts: frozen, and free of heavy imports, so that `--help` answers at once."""

import os
import shlex
from dataclasses import dataclass
from typing import Any, Literal

DIGITS = "digits"


@dataclass(frozen=True)
class ShardConfig:
    """What is sharded, and how."""

    source: str
    """`digits`, a folder of images, a local folder that `datasets` reads (parquet, arrow), or a name on the Hub."""
    out: str
    """The dataset folder to write; a killed run goes on in it."""
    workers: int = 0
    """Processes that read, check and write; 0: one for each core. The written bytes do not depend on it."""
    shard_size: int = 256_000_000
    """Image bytes a shard, about."""
    seed: int = 0
    """Of the order in which samples are spread over the shards."""
    labels: Literal["auto", "none"] = "auto"
    """`auto`: class folders or a label column, where there are any; `none`: images only."""
    image_column: str | None = None
    """Of a table: by default the first column of images."""
    label_column: str | None = None
    """Of a table: by default the first column of class labels."""
    only: tuple[str, ...] = ()
    """Write only these shards of a finished dataset again: `--only train-000017.tar`."""

    def __post_init__(self) -> None:
        if not self.source or not self.out:
            raise ValueError("--source and --out must not be empty")
        if self.workers < 0:
            raise ValueError(f"--workers is {self.workers}, expected at least 1, or 0 for one worker a core")
        if self.shard_size < 1:
            raise ValueError(f"--shard-size is {self.shard_size}, expected a number of bytes, at least 1")
        if self.labels == "none" and self.label_column is not None:
            raise ValueError(f"--labels none and --label-column {self.label_column} contradict each other: drop one")

    @property
    def processes(self) -> int:
        """How many worker processes to start: at most one for each core that this process may use, unless asked."""
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.workers or usable

    @property
    def reproducing(self) -> dict[str, Any]:
        """The options that decide which bytes are written, as they were typed, defaults included."""
        options = {
            "source": self.source,
            "shard-size": self.shard_size,
            "seed": self.seed,
            "labels": self.labels,
            "image-column": self.image_column,
            "label-column": self.label_column,
        }
        return {name: value for name, value in options.items() if value is not None}

    @property
    def command(self) -> str:
        """`reproducing` as words for a shell."""
        return shlex.join(word for name, value in self.reproducing.items() for word in (f"--{name}", str(value)))
