"""How well batches are mixed, beside what a uniform shuffle of all samples would give."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import lgamma
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.manifest import Manifest, locate_sample, open_index, sample_starts
from data_pipeline.order import Integers, Plan, block_bounds, lanes_for
from data_pipeline.randomness import Purpose, hash_array, key
from data_pipeline.recorded_run import Ingredient, make_orders
from data_pipeline.survey_config import ShuffleQualityConfig
from data_pipeline.text_table import text_table
from launch.console import Console

_GOOD, _FAIR = 0.9, 0.5
_WIDER = "take a larger --batch-size, or write smaller shards (--shard-size)"
_FINER = "take a larger --max-world: more lanes mix more blocks"
_TOGETHER = "images of a class come together in the tars: shard the source again, which shuffles it"


@dataclass(frozen=True)
class Figure:
    """One measure, mean over batches, and its expectation under a uniform shuffle. `share`: how near it comes, 1 for
    as good; `advice` is for where it does not.
    """

    name: str
    found: float
    uniform: float
    share: float
    advice: str

    @property
    def verdict(self) -> str:
        """good, fair or poor."""
        return "good" if self.share >= _GOOD else "fair" if self.share >= _FAIR else "poor"


@dataclass(frozen=True)
class ShuffleQuality:
    """Of the first epoch of one seed."""

    data: str
    split: str
    samples: int
    shards: int
    blocks: int
    lanes: int
    batch_size: int
    steps: int
    seed: int
    figures: tuple[Figure, ...]

    def to_json(self) -> dict[str, Any]:
        """With each figure's verdict."""
        figures = [asdict(figure) | {"verdict": figure.verdict} for figure in self.figures]
        return asdict(self) | {"figures": figures}

    def table(self) -> str:
        """For people."""
        rows = [(figure.name, figure.found, figure.uniform, figure.verdict) for figure in self.figures]
        lines = [
            f"{self.data} [{self.split}]: {self.samples:,} samples in {self.shards:,} shards, {self.blocks:,} blocks, "
            f"{self.lanes:,} lanes; {self.steps:,} batches of {self.batch_size:,} from one epoch, seed {self.seed}",
            "",
            text_table(("a batch has on average", "here", "uniform", ""), rows),
            "",
        ]
        advice = [
            f"{figure.verdict}: {figure.name}: {figure.advice}" for figure in self.figures if figure.share < _GOOD
        ]
        return "\n".join([*lines, *(advice or ["All is as a uniform shuffle would have it, or better."])])


def measure_shuffle(manifest: Manifest, split: str, config: ShuffleQualityConfig, console: Console) -> ShuffleQuality:
    """Look at batches spread evenly over the first epoch.

    Raises:
        ValueError: no such split, or a batch that is larger than it.
        DatasetError: an index is absent or altered.
    """
    described = manifest.split(split)
    plan = Plan(lanes=lanes_for(config.max_world))
    (order,) = make_orders([Ingredient(manifest, split, None)], plan, config.seed)
    batch, samples = config.batch_size, order.samples
    if batch > samples:
        raise ValueError(f"--batch-size {batch}: split {split} has {samples:,} samples; give at most that")
    steps = min(config.steps, samples // batch)
    firsts = samples // batch * np.arange(steps, dtype=np.int64) // steps * batch
    positions = firsts[:, None] + np.arange(batch)  # (steps, batch), as all below
    chosen = np.empty_like(positions)
    with console.progress(steps, unit="batches", label="drawn") as progress:
        for step in range(steps):
            chosen[step] = order.locate(positions[step]).sample
            progress.advance()
    shards = described.table.samples
    bounds = block_bounds(shards, described.table.bytes, plan)
    withdrawn = np.asarray(described.withdrawn, np.int64)
    places = chosen - np.searchsorted(withdrawn, chosen)  # among those that take part
    way, uniform_way = np.abs(positions - places).mean(), _expected_way(positions, samples)
    figures = [
        _spread("distinct shards", chosen, sample_starts(described), withdrawn, _WIDER),
        _spread("distinct blocks", chosen, bounds, withdrawn, _FINER),
        Figure(
            name="way of a sample from its place in the tars, % of the split",
            found=100 * float(way) / samples,
            uniform=100 * uniform_way / samples,
            share=min(1.0, float(way) / uniform_way),
            advice="the order is near that of the tars: mixing within few blocks does not take samples far",
        ),
    ]
    if manifest.classes is not None and len(manifest.classes) > 1:
        figures += _class_figures(*_read_labels(manifest, split, chosen, console), config.seed)
    return ShuffleQuality(
        data=str(manifest.folder),
        split=split,
        samples=samples,
        shards=len(described.shards),
        blocks=len(bounds) - 1,
        lanes=plan.lanes,
        batch_size=batch,
        steps=steps,
        seed=config.seed,
        figures=tuple(figures),
    )


def expected_distinct(sizes: Sequence[int] | Integers, drawn: int) -> float:
    """Groups, of so many members each, that are met when `drawn` members of all are drawn without replacement."""
    total = int(np.sum(sizes))
    met = 0.0
    kinds, times = np.unique(np.asarray(sizes), return_counts=True)
    for size, count in zip(kinds.tolist(), times.tolist(), strict=True):
        others = total - size
        # Probability that none of them is drawn: C(others, drawn) / C(total, drawn).
        missed = 0.0
        if others >= drawn:
            missed = np.exp(
                lgamma(others + 1) - lgamma(others - drawn + 1) - lgamma(total + 1) + lgamma(total - drawn + 1)
            )
        met += count * (1 - missed)
    return float(met)


def run_lengths(labels: NDArray[np.int64]) -> tuple[int, int]:
    """The longest run of equal labels, and the number of runs."""
    ends = np.flatnonzero(np.append(labels[1:] != labels[:-1], True))
    return int(np.diff(ends, prepend=-1).max()), len(ends)


def expected_run(class_counts: Integers, batch: int) -> float:
    """Mean length of the runs of a class in `batch` samples of a uniform shuffle of all: their number is expected to be
    1 + (batch - 1) times the probability that two samples differ in class.
    """
    total = int(class_counts.sum())
    same = float((class_counts * (class_counts - 1)).sum()) / max(total * (total - 1), 1)
    return batch / (1 + (batch - 1) * (1 - same))


def _spread(name: str, chosen: Integers, bounds: Integers, withdrawn: Integers, advice: str) -> Figure:
    """Groups of samples, from one bound to the next, that are met in a batch."""
    groups = np.searchsorted(bounds, chosen, side="right")
    found = float(np.mean([len(np.unique(each)) for each in groups]))
    uniform = expected_distinct(np.diff(bounds - np.searchsorted(withdrawn, bounds)), chosen.shape[1])
    return Figure(name, found, uniform, min(1.0, found / uniform), advice)


def _class_figures(labels: Integers, class_counts: Integers, seed: int) -> list[Figure]:
    steps, batch = labels.shape
    ends = np.cumsum(class_counts)
    luck = hash_array(key(seed, Purpose.SUBSET), np.arange(steps * batch, dtype=np.uint64))
    drawn = np.searchsorted(ends, (luck % np.uint64(ends[-1])).astype(np.int64), side="right").reshape(steps, batch)
    found, simulated = ([run_lengths(each) for each in batches] for batches in (labels, drawn))
    mean, expected = float(np.mean([batch / runs for _, runs in found])), expected_run(class_counts, batch)
    longest, likely = (float(np.mean([longest for longest, _ in each])) for each in (found, simulated))
    return [
        Figure("samples of one class in a row", mean, expected, min(1.0, expected / mean), _TOGETHER),
        Figure("longest such run", longest, likely, min(1.0, likely / longest), _TOGETHER),
    ]


def _read_labels(manifest: Manifest, split: str, chosen: Integers, console: Console) -> tuple[Integers, Integers]:
    """Labels of the chosen samples, in their shape, and how many samples that take part each class has; those without
    a label are counted as one more class, the last. Each index is opened once.
    """
    described, classes = manifest.split(split), len(manifest.classes or ())
    starts, withdrawn = sample_starts(described), np.asarray(described.withdrawn, np.int64)
    shards, rows = locate_sample(starts, chosen.ravel())
    by_shard = np.argsort(shards, kind="stable")
    ends = np.searchsorted(shards[by_shard], np.arange(len(described.shards) + 1))
    labels, counts = np.empty(chosen.size, np.int64), np.zeros(classes + 1, np.int64)
    out_ends = np.searchsorted(withdrawn, starts)
    with console.progress(len(described.shards), unit="indexes", label="read") as progress:
        for number, shard in enumerate(described.shards):
            own = np.asarray(open_index(manifest, shard)["label"], np.int64)
            own = np.where((own < 0) | (own >= classes), classes, own)
            mine = by_shard[ends[number] : ends[number + 1]]
            labels[mine] = own[rows[mine]]
            out = withdrawn[out_ends[number] : out_ends[number + 1]] - starts[number]
            counts += np.bincount(np.delete(own, out), minlength=classes + 1)
            progress.advance()
    return labels.reshape(chosen.shape), counts


def _expected_way(positions: Integers, samples: int) -> float:
    """Mean distance from the positions to a uniformly drawn place."""
    before = positions * (positions + 1) / 2
    after = (samples - 1 - positions) * (samples - positions) / 2
    return float(((before + after) / samples).mean())
