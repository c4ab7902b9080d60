"""What a report shows of the evaluation.json of a classifier of several labels an image."""

from dataclasses import dataclass

from finetune.report_blocks import Bar, Bars, Block, Caption, Table
from finetune.report_folders import Folder, read_known

_MOST_CLASSES = 30


@dataclass(frozen=True)
class MultiLabelIntervals:
    """Both ends of the bootstrap interval of a level, and how many draws it is from."""

    level: float
    draws: int
    mean_average_precision: tuple[float, float]


@dataclass(frozen=True)
class MultiLabelFile:
    """What finetune/classify.py writes into evaluation.json with --label-field; all figures are shares.

    `average_precision` of a class is None where no image has it; `intervals` are absent until the end of a run.
    """

    step: int
    split: str
    images: int
    undecodable: int
    mean_average_precision: float
    micro_f1: float
    macro_f1: float
    exact_match: float
    classes: tuple[str, ...]
    images_per_class: tuple[int, ...]
    average_precision: tuple[float | None, ...]
    intervals: MultiLabelIntervals | None = None

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """Each figure as a person reads it."""
        ends = self.intervals
        between = ""
        if ends is not None:
            low, high = ends.mean_average_precision
            between = f" ({100 * ends.level:g} % between {low:.2%} and {high:.2%})"
        return (
            ("Mean average precision", f"{self.mean_average_precision:.2%}{between}"),
            ("F1 of all labels", f"{self.micro_f1:.2%}"),
            ("F1, mean over classes", f"{self.macro_f1:.2%}"),
            ("Images with every label right", f"{self.exact_match:.2%}"),
        )


def multi_label_blocks(folder: Folder) -> list[Block]:
    """Every figure, and the average precision of every class. Raises ValueError where evaluation.json does not fit."""
    path = folder.path / "evaluation.json"
    found, source = read_known(MultiLabelFile, path), (f"{folder.name}/evaluation.json",)
    left_out = f" {found.undecodable:,} more do not decode and are left out." if found.undecodable else ""
    text = (
        f"Labels of the {found.images:,} images of the split “{found.split}”, each seen once, after step "
        f"{found.step:,}; a label is said where its probability is above one half.{left_out}"
    )
    return [Table(("measure", "value"), found.rows, frozenset(), Caption(text, source)), _by_class(found, source)]


def has_several_labels(evaluation: dict[str, object]) -> bool:
    """Whether an evaluation.json is of several labels an image."""
    return "mean_average_precision" in evaluation


def _by_class(found: MultiLabelFile, source: tuple[str, ...]) -> Bars:
    rows = zip(found.classes, found.average_precision, found.images_per_class, strict=True)
    bars = [
        Bar(name, share, "no images" if share is None else f"{share:.1%}, {images:,} images")
        for name, share, images in rows
    ]
    bars.sort(key=lambda one: (one.share is None, one.share))
    most = min(len(bars), _MOST_CLASSES)
    text = "Average precision of each class, the worst first"
    text += f"; {most} of {len(bars):,} unfolded." if bars[most:] else "."
    return Bars(tuple(bars[:most]), Caption(text, source), more=tuple(bars[most:]))
