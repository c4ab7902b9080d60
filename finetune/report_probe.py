"""What a report shows of probe.json: what frozen features are worth."""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune.report_accuracy import with_error
from finetune.report_blocks import Block, Caption, Properties, Table
from finetune.report_folders import PROBE, Folder, read_known
from finetune.report_training import flat_rows
from launch.strict_json import read_json


@dataclass(frozen=True)
class KnnOfK:
    """k-NN with one number of neighbours."""

    neighbours: int
    top1: float


@dataclass(frozen=True)
class KnnResult:
    """k-NN by frozen features: of the k that counts, and of all that were tried."""

    neighbours: int
    top1: float
    held_out_images: int | None = None
    sweep: tuple[KnnOfK, ...] = ()


@dataclass(frozen=True)
class LinearResult:
    """A linear classifier on frozen features."""

    method: str
    top1: float


@dataclass(frozen=True)
class Shots:
    """Mean and sample deviation over draws of so many images of each class."""

    shots: int
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class FewShotResult:
    """What few images of each class teach."""

    draws: int
    results: tuple[Shots, ...]


@dataclass(frozen=True)
class ProbeFile:
    """What finetune/probe.py writes; accuracies are shares of `held_out_images`. Earlier ones did not write down the
    SHA-256 of the model's weights.
    """

    model: str
    data: str
    split: str
    held_out: str
    train_images: int
    held_out_images: int
    features: str
    knn: KnnResult
    linear: LinearResult
    seed: int = 0
    few_shot: FewShotResult | None = None
    model_sha256: str | None = None


def read_probe(folder: Folder) -> ProbeFile:
    """probe.json. Raises ValueError where it is damaged."""
    return read_known(ProbeFile, folder.path / PROBE)


def probe_blocks(folder: Folder, _: str) -> list[Block]:
    """The accuracies of frozen features, and how they were measured."""
    found = read_probe(folder)
    source = f"{folder.name}/{PROBE}"
    values = {
        f"k-NN, {found.knn.neighbours} neighbours": with_error(
            found.knn.top1, found.knn.held_out_images or found.held_out_images
        ),
        f"linear, {found.linear.method}": with_error(found.linear.top1, found.held_out_images),
        "images": f"{found.held_out_images:,}",
    }
    text = (
        f"Top-1 accuracy of frozen features ({found.features}) of {found.model}: fitted on {found.train_images:,} "
        f"images of the split “{found.split}”, measured on {found.held_out_images:,} of “{found.held_out}” of "
        f"{found.data}; ± is the standard error that so many images allow."
    )
    table = Table(tuple(values), (tuple(values.values()),), frozenset(), Caption(text, (source,)))
    everything = Properties("Everything in probe.json", flat_rows(read_json(folder.path / PROBE)), source)
    return [table, *_tables(found, source), everything]


def _tables(found: ProbeFile, source: str) -> Iterator[Table]:
    """By the number of images of each class, and by the number of neighbours, where these were measured."""
    if found.few_shot is not None:
        rows = tuple(
            (f"{one.shots:,}", f"{one.mean:.2%}" + ("" if one.deviation is None else f" ± {100 * one.deviation:.2f}"))
            for one in found.few_shot.results
        )
        text = (
            "Top-1 accuracy of logistic regression on few images: mean and sample deviation over "
            f"{found.few_shot.draws} draws."
        )
        yield Table(("images a class", "top-1"), rows, frozenset({0, 1}), Caption(text, (source,)))
    if found.knn.sweep:
        rows = tuple((f"{one.neighbours:,}", f"{one.top1:.2%}") for one in found.knn.sweep)
        text = (
            f"Top-1 accuracy by the number of neighbours; that of {found.knn.neighbours} counts, whatever the others."
        )
        yield Table(("neighbours", "top-1"), rows, frozenset({0, 1}), Caption(text, (source,)))
