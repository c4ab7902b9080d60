"""What a report shows of evaluation.json: accuracies, confusions, and how each class does."""

import math
from dataclasses import dataclass

from finetune.report_blocks import NOTHING, Bar, Bars, Block, Caption, Matrix, Table
from finetune.report_folders import Folder, read_known

_MOST_CLASSES = 30
_MOST_SHOWN = 20


@dataclass(frozen=True)
class EvaluationIntervals:
    """Both ends of the bootstrap intervals of a level, by the figures' names, and how many draws they are from."""

    level: float
    draws: int
    top1: tuple[float, float]
    top5: tuple[float, float]
    mean_class_accuracy: tuple[float, float]
    nll: tuple[float, float]
    ece: tuple[float, float]


@dataclass(frozen=True)
class EvaluationFile:
    """What a classifier's run writes into evaluation.json; accuracies are shares, `confusion` counts.

    Files of earlier versions lack `ece`, and all but those of a run's end lack `intervals`.

    Raises:
        ValueError: the confusion matrix does not fit the classes.
    """

    step: int
    split: str
    images: int
    undecodable: int
    top1: float
    top5: float
    mean_class_accuracy: float
    nll: float
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    ece: float | None = None
    intervals: EvaluationIntervals | None = None

    def __post_init__(self) -> None:
        count = len(self.classes)
        if {len(self.confusion), *map(len, self.confusion)} != {count}:
            raise ValueError(f"confusion: expected {count} rows of {count} counts, one a class; evaluate again")


def accuracy_blocks(folder: Folder, _: str) -> list[Block]:
    """Accuracies, the confusion matrix or the most frequent confusions, and the accuracy of every class.

    Raises:
        ValueError: no evaluation.json, or not what classify.py writes.
    """
    found = read_known(EvaluationFile, folder.path / "evaluation.json")
    source = (f"{folder.name}/evaluation.json",)
    confusions = _matrix(found, source) if len(found.classes) <= _MOST_CLASSES else _frequent(found, source)
    return [_accuracies(found, source), confusions, _by_class(found, source)]


def with_error(share: float, images: int) -> str:
    """A share of so many images in percent, with its binomial standard error."""
    if images == 0:
        return NOTHING
    return f"{share:.2%}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{math.sqrt(share * (1 - share) / images):.2%}"


def _accuracies(found: EvaluationFile, source: tuple[str, ...]) -> Table:
    values = {
        "top-1": with_error(found.top1, found.images),
        "top-5": with_error(found.top5, found.images),
        "mean over classes": f"{found.mean_class_accuracy:.2%}",
        "negative log-likelihood": f"{found.nll:.4g} nats",
    }
    if found.ece is not None:
        values["expected calibration error"] = f"{found.ece:.2%}"
    values["images"] = f"{found.images:,}"
    rows = [tuple(values.values())]
    error = "± is the standard error that so many images allow"
    if found.intervals is not None:
        ends = found.intervals
        shares = [_between(*one) for one in (ends.top1, ends.top5, ends.mean_class_accuracy)]
        rows.append((*shares, f"{ends.nll[0]:.4g} to {ends.nll[1]:.4g} nats", _between(*ends.ece), ""))
        error += f", below it the {100 * ends.level:g} % bootstrap interval from {ends.draws:,} draws"
    left_out = f" {found.undecodable:,} more do not decode and are left out." if found.undecodable else ""
    text = (
        f"Accuracy on the {found.images:,} images of the split “{found.split}”, each seen once, after step "
        f"{found.step:,}; {error}.{left_out}"
    )
    return Table(tuple(values), tuple(rows), frozenset(), Caption(text, source))


def _between(low: float, high: float) -> str:
    return f"{low:.2%} to {high:.2%}"


def _matrix(found: EvaluationFile, source: tuple[str, ...]) -> Matrix:
    shares = tuple(tuple(count / max(sum(row), 1) for count in row) for row in found.confusion)
    text = (
        "Confusion matrix: how many images of each true class (row) were taken for which class (column); the shade is "
        "the share of the row."
    )
    return Matrix(found.classes, found.confusion, shares, Caption(text, source))


def _frequent(found: EvaluationFile, source: tuple[str, ...]) -> Table:
    confused = [
        (count, true, predicted)
        for true, row in enumerate(found.confusion)
        for predicted, count in enumerate(row)
        if count > 0 and true != predicted
    ]
    frequent = sorted(confused, key=lambda one: (-one[0], one[1], one[2]))[:_MOST_SHOWN]
    rows = [
        (found.classes[true], found.classes[predicted], f"{count:,}", f"{count / sum(found.confusion[true]):.1%}")
        for count, true, predicted in frequent
    ]
    text = f"The {len(rows)} most frequent confusions of {len(confused):,} that occur, among {len(found.classes):,} "
    head = ("true class", "taken for", "images", "of the class")
    return Table(head, tuple(rows), frozenset({2, 3}), Caption(f"{text}classes.", source))


def _by_class(found: EvaluationFile, source: tuple[str, ...]) -> Bars:
    def bar(name: str, right: int, images: int) -> Bar:
        if images == 0:
            return Bar(name, None, "no images")
        return Bar(name, right / images, f"{right / images:.1%} of {images:,}")

    rows = enumerate(zip(found.classes, found.confusion, strict=True))
    bars = [bar(name, row[number], sum(row)) for number, (name, row) in rows]
    # A class without images is neither good nor bad: it goes to the end.
    bars.sort(key=lambda one: (one.share is None, one.share))
    most = len(bars) if len(bars) <= _MOST_CLASSES else _MOST_SHOWN
    text = "Accuracy of each class, the worst first" + (f"; {most} of {len(bars):,} unfolded." if bars[most:] else ".")
    return Bars(tuple(bars[:most]), Caption(text, source), more=tuple(bars[most:]))
