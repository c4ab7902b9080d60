"""What a report shows of a classifier's evaluations: the last one in full, and where its best one was."""

from dataclasses import dataclass

from finetune.report_accuracy import accuracy_blocks
from finetune.report_blocks import Block, Note
from finetune.report_folders import Folder, read_known
from finetune.report_multi_label import has_several_labels, multi_label_blocks
from launch.strict_json import read_json


@dataclass(frozen=True)
class BestFile:
    """What finetune/classify.py writes into evaluation-best.json, as far as a note tells of it."""

    step: int
    split: str
    chosen_on: str
    top1: float | None = None
    mean_average_precision: float | None = None


def evaluation_blocks(folder: Folder, anchor: str) -> list[Block]:
    """What evaluation.json holds, of whichever kind it is.

    Raises:
        ValueError: no evaluation.json, or not what classify.py writes.
    """
    return [*_last_blocks(folder, anchor), *_best_notes(folder)]


def _last_blocks(folder: Folder, anchor: str) -> list[Block]:
    path = folder.path / "evaluation.json"
    is_of_several = path.is_file() and has_several_labels(read_json(path))
    return multi_label_blocks(folder) if is_of_several else accuracy_blocks(folder, anchor)


def _best_notes(folder: Folder) -> list[Note]:
    """What an earlier evaluation found better, where the run has kept its model."""
    path = folder.path / "evaluation-best.json"
    if not path.is_file():
        return []
    best = read_known(BestFile, path)
    share = best.top1 if best.mean_average_precision is None else best.mean_average_precision
    name = "top-1" if best.mean_average_precision is None else "mean average precision"
    figure = "" if share is None else f"{name} {share:.2%} on “{best.split}”, "
    return [
        Note(
            f"The model of the best evaluation, after step {best.step:,}, is in best/: {figure}"
            f"chosen on {best.chosen_on}."
        )
    ]
