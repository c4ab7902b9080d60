"""The options of `survey.py`, one frozen dataclass a command; imports nothing heavy: `--help` answers at once."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class VerifyConfig:
    """Read every byte, compare it with its checksum, and name the first bad ones and the command that repairs them.

    Sizes and SHA-256 of tars and indexes, the checksum of every image and of its annotations, the tars' headers against
    the index, and the order of the keys. Exit code 1 if anything differs.
    """

    data: str
    """Dataset folder or URL."""
    split: str | None = None
    """Only this split; by default all."""
    workers: int = 0
    """Worker processes; 0: one for each core that this process may use."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"--workers is {self.workers}, expected at least 0")

    @property
    def processes(self) -> int:
        """How many worker processes to start at most."""
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.workers or usable


@dataclass(frozen=True)
class StatsConfig:
    """Tell what is in a dataset: samples, classes, sizes, channel means, how it was made, what was left out.

    Reads the indexes, shard after shard, and no image.
    """

    data: str
    """Dataset folder or URL."""
    json: bool = False
    """For machines: one JSON object instead of tables."""


@dataclass(frozen=True)
class PreviewConfig:
    """Draw a contact sheet: thumbnails from all over a split with their classes, as a PNG."""

    data: str
    """Dataset folder or URL."""
    out: str
    """The PNG to write; one that is there already is replaced."""
    split: str | None = None
    """The split to show; by default train, or the first there is."""
    count: int = 100
    """Images."""
    seed: int = 0
    """Of the choice: the same seed shows the same images."""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 2000:
            raise ValueError(f"--count is {self.count}, expected 1 to 2000: a sheet is made to be looked at")
        if not self.out.lower().endswith(".png"):
            raise ValueError(f"--out {self.out}: expected the name of a PNG; try {self.out}.png")


@dataclass(frozen=True)
class ExplainConfig:
    """List the samples of a step, without training: position, epoch, shard, key, source and label of each.

    Those of one rank, either of a run (--run), or of a plan that a run would have (--data and --batch-size).
    """

    step: int
    """As in metrics.jsonl, where the first step of a run is 1."""
    run: str | None = None
    """Run folder: its data, split, seed, batch size and plan, as its newest checkpoint records them."""
    data: tuple[str, ...] = ()
    """Dataset folder or URL; several for a mixture. Of a run: only where they have been moved."""
    split: str | None = None
    """Without --run: the split; by default train."""
    batch_size: int | None = None
    """Without --run: images of an optimizer step, over all processes."""
    rank: int = 0
    """Whose rows."""
    world: int = 1
    """Processes that share a batch."""
    seed: int | None = None
    """Without --run: of the run; by default 0."""
    max_world: int | None = None
    """Without --run: the run's --max-world; by default 16."""
    views: int | None = None
    """Without --run: how often in an epoch a sample is shown; by default once."""
    weights: tuple[int, ...] = ()
    """Without --run: of a mixture, one for each of --data; by default 1 each."""
    members: str | None = None
    """A .npy file of the numbers of the samples that take part, where a run chose them by a rule of its own."""
    json: bool = False
    """For machines: one JSON object instead of a table."""

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ValueError(f"--step is {self.step}, expected at least 1: the first step of a run is 1")
        if not 0 <= self.rank < self.world:
            raise ValueError(f"--rank {self.rank} --world {self.world}: expected a rank from 0 to world - 1")
        own = ("split", "batch_size", "seed", "max_world", "views", "weights")
        given = [f"--{name.replace('_', '-')}" for name in own if getattr(self, name) not in (None, ())]
        if self.run is not None and given:
            raise ValueError(f"--run {self.run} tells what {given[0]} would: drop one of them")
        if self.run is None and (not self.data or self.batch_size is None):
            raise ValueError("expected --run RUN, or --data DATASET and --batch-size N")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"--batch-size is {self.batch_size}, expected at least 1")
        if self.weights and len(self.weights) != len(self.data):
            raise ValueError(f"--weights: {len(self.weights)} given for {len(self.data)} of --data; give one for each")


@dataclass(frozen=True)
class AuditConfig:
    """Prove from a run's newest checkpoint how often each sample was seen; exit code 1 where that cannot be.

    The order is computed anew over all positions that the run has consumed, and every sample is counted.
    """

    run: str
    """Run folder."""
    data: tuple[str, ...] = ()
    """Dataset folder or URL, where it has been moved; several for a mixture."""
    members: str | None = None
    """A .npy file of the numbers of the samples that take part, where a run chose them by a rule of its own."""
    out: str | None = None
    """A folder, or the name of a .json file: the findings are written there too."""


@dataclass(frozen=True)
class ShuffleQualityConfig:
    """Measure how well batches are mixed, beside what a uniform shuffle of the whole split would give."""

    data: str
    """Dataset folder or URL."""
    split: str | None = None
    """By default train, or the first there is."""
    batch_size: int = 256
    """Images of an optimizer step, over all processes."""
    max_world: int = 16
    """As for training: decides the order."""
    steps: int = 200
    """Batches to look at, evenly spaced over an epoch."""
    seed: int = 0
    """Of the order, as for training."""
    json: bool = False
    """For machines: one JSON object instead of a table."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps", "max_world"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, expected at least 1")


@dataclass(frozen=True)
class WithdrawConfig:
    """Take samples out of a dataset without writing its tars again, by adding their keys to `withdrawn.txt`."""

    data: str
    """Local dataset folder."""
    keys: tuple[str, ...] = ()
    """Keys of samples, as their files in the tars are called without extension: train-000000012."""
    from_file: str | None = None
    """A file with one key a line; what follows a # is a comment."""

    def __post_init__(self) -> None:
        if not self.keys and self.from_file is None:
            raise ValueError("expected keys: --keys KEY ..., or --from-file FILE")


COMMANDS: dict[str, type] = {
    "verify": VerifyConfig,
    "stats": StatsConfig,
    "preview": PreviewConfig,
    "explain": ExplainConfig,
    "audit": AuditConfig,
    "shuffle-quality": ShuffleQualityConfig,
    "withdraw": WithdrawConfig,
}
