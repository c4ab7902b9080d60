"""What a report shows of benchmark.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from finetune.report_blocks import NOTHING, Block, Caption, Note, Plot, Table, shown
from finetune.report_facts import gather_facts
from finetune.report_figures import accuracy_by_labels
from finetune.report_folders import BENCHMARK, Folder, read_known, sub_runs
from finetune.report_training import flat_rows


@dataclass(frozen=True)
class Training:
    """Of a benchmark's row: what was trained at the learning rate that was chosen, and top-1 of each seed.

    None for a seed whose loss became infinite.
    """

    top1: tuple[float | None, ...]
    base_lr: float | None = None
    epochs: float | None = None


@dataclass(frozen=True)
class BenchmarkRow:
    """Accuracies with so many labelled images of each class, None: all there are."""

    labels: int | None
    images: int | None = None
    pixels_1nn: tuple[float | None, ...] = ()
    scratch: Training | None = None
    pretrained: Training | None = None


@dataclass(frozen=True)
class BenchmarkFile:
    """What finetune/benchmark.py writes; earlier ones did not write down the SHA-256 of the encoder's weights."""

    data: str
    init: str
    rows: tuple[BenchmarkRow, ...]
    model_sha256: str | None = None


def best_pretrained(folder: Folder) -> float | None:
    """The largest mean over seeds that pre-training reached. Raises ValueError where benchmark.json is damaged."""
    rows = read_known(BenchmarkFile, folder.path / BENCHMARK).rows
    return max((mean(seeds) for row in rows if (seeds := _seeds(row.pretrained))), default=None)


def benchmark_blocks(folder: Folder, anchor: str) -> list[Block]:
    """Accuracy against the number of labels, as a figure and as a table."""
    found = read_known(BenchmarkFile, folder.path / BENCHMARK)
    source = (f"{folder.name}/{BENCHMARK}",)
    if not found.rows:
        return [Note(f"{BENCHMARK} holds no rows yet: no accuracies.")]
    results = {
        "pre-trained": [_seeds(row.pretrained) for row in found.rows],
        "from scratch": [_seeds(row.scratch) for row in found.rows],
        "pixels, 1-NN": [_finite(row.pixels_1nn) for row in found.rows],
    }
    labels = [_labels(row) for row in found.rows]
    text = (
        f"Accuracy on held-out images of {found.data} by the number of labelled images a class; pre-trained is "
        f"{found.init}. A point is a seed, the lines join their means."
    )
    plot = Plot(accuracy_by_labels(f"{anchor}-labels", labels, results), text, Caption(text, source))
    head = ("labels a class", "images", "pixels, 1-NN", "from scratch", "pre-trained", "gain in points")
    rows = tuple(_row(row) for row in found.rows)
    what = "As numbers: mean ± standard deviation over seeds; gain is that of pre-trained over from scratch"
    return [plot, Table(head, rows, frozenset(range(1, 6)), Caption(f"{what}.", source))]


def sub_run_blocks(folder: Folder, _: str) -> list[Block]:
    """The runs of a benchmark, a line each."""
    runs = sub_runs(folder)
    if not runs:
        return [Note("The folder holds no runs.")]
    rows = []
    for run in runs:
        facts = gather_facts(run)
        settings = dict(flat_rows(run.config))
        chosen = [settings.get(name, NOTHING) for name in ("init", "optimizer.base_lr", "seed")]
        labels = "all" if run.config.get("labels") is None else settings["labels"]
        steps, loss = shown(facts.steps, "{:,}".format), shown(facts.loss, "{:.4g}".format)
        best = shown(None if facts.best is None else facts.best[1], "{:.2%}".format)
        rows.append((run.path.name, labels, *chosen, run.status, steps, loss, best))
    head = ("run", "labels", "starts from", "base lr", "seed", "status", "steps", "last loss", "best top-1")
    text = f"The {len(runs)} runs in the folder; each is a run folder that report.py takes as well."
    sources = (f"{folder.name}/*/config.json", f"{folder.name}/*/metrics.jsonl")
    return [Table(head, tuple(rows), frozenset({1, 3, 4, 6, 7, 8}), Caption(text, sources))]


def _row(row: BenchmarkRow) -> tuple[str, ...]:
    scratch, pretrained = _seeds(row.scratch), _seeds(row.pretrained)
    gain = f"{100 * (mean(pretrained) - mean(scratch)):+.1f}" if pretrained and scratch else NOTHING
    images = shown(row.images, "{:,}".format)
    trained = [NOTHING if one is None else _spread(one.top1) + _how(one) for one in (row.scratch, row.pretrained)]
    return (_labels(row), images, _spread(row.pixels_1nn), *trained, gain)


def _seeds(training: Training | None) -> tuple[float, ...]:
    return () if training is None else _finite(training.top1)


def _finite(seeds: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(top1 for top1 in seeds if top1 is not None)


def _labels(row: BenchmarkRow) -> str:
    return "all" if row.labels is None else f"{row.labels:,}"


def _spread(seeds: Sequence[float | None]) -> str:
    finite = _finite(seeds)
    if not finite:
        return NOTHING
    text = f"{mean(finite):.1%}" + (f" ± {100 * stdev(finite):.1f}" if len(finite) > 1 else "")
    return text if len(finite) == len(seeds) else f"{text}, {len(seeds) - len(finite)} of {len(seeds)} failed"


def _how(training: Training) -> str:
    if training.base_lr is None or training.epochs is None:
        return ""
    return f" (lr {training.base_lr:g}, {training.epochs:.3g} epochs)"
