"""What a model card tells of a model and of how good it is, as Markdown text; without the names of folders."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.manifest import Manifest
from finetune.card_scores import Row, Score, share_score
from finetune.finished_run import FinishedRun
from finetune.report_accuracy import EvaluationFile, with_error
from finetune.report_facts import number
from finetune.report_multi_label import MultiLabelFile
from pretrain.feature_distill_config import FeatureDistillConfig
from pretrain.supervised_config import SupervisedConfig

_MOST_CLASSES = 50
_ON_HUB = "hf://"
# As data_pipeline/table_source.py and streamed_dataset.py describe a dataset of the Hub.
_FROM_HUB = re.compile(r"(?:Hub dataset|stream of) ([\w.-]+(?:/[\w.-]+)?)")
_DATASET = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:[@/].*)?")


@dataclass(frozen=True)
class Neighbours:
    """What a run without labels has measured of its encoder at its end, by a few of the images of a split."""

    split: str
    images: int
    train_images: int
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Results:
    """What was measured, and on which images."""

    rows: tuple[Row, ...]
    images: str


def plain(text: str) -> str:
    """A name on one line that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|&~$])", r"\\\1", " ".join(text.split()))


def model_name(where: str) -> str:
    """What a model is called that a user named: on the Hub with its owner, otherwise by its last folder alone."""
    return plain(where.removeprefix(_ON_HUB) if where.startswith(_ON_HUB) else Path(where).name)


def hub_datasets(manifest: Manifest) -> tuple[str, ...]:
    """The names on the Hub of the dataset itself, and of the one that its images came from, where they have one."""
    itself = _DATASET.fullmatch(str(manifest.folder))
    source = _FROM_HUB.fullmatch(str(manifest.made.get("source", "")))
    return tuple(dict.fromkeys(found[1] for found in (itself, source) if found is not None))


def data_name(manifest: Manifest) -> str:
    """The dataset's name on the Hub, otherwise that of its folder."""
    return next(iter(hub_datasets(manifest)), None) or manifest.folder.resolve().name


def class_names(run: FinishedRun) -> str:
    """The classes in the order of the logits; the first of very many."""
    names = run.exported.class_names or ()
    more = len(names) - _MOST_CLASSES
    return ", ".join(map(plain, names[:_MOST_CLASSES])) + (f" and {more:,} more" if more > 0 else "")


def headline(found: EvaluationFile | MultiLabelFile) -> dict[str, float]:
    """What a model is compared by, as shares: top-1, top-5 where there are more classes, and the mean over classes; of
    several labels an image the mean average precision.
    """
    if isinstance(found, MultiLabelFile):
        return {"Mean average precision": found.mean_average_precision}
    return {**accuracies(found), "Mean over classes": found.mean_class_accuracy}


def accuracies(found: EvaluationFile) -> dict[str, float]:
    """Top-1 and, where there are more classes than that, top-5, as shares."""
    return {"Top-1": found.top1, **({"Top-5": found.top5} if len(found.classes) > 5 else {})}


def results(run: FinishedRun) -> Results | None:
    """Accuracy on the held-out split: of the classifier, or of nearest neighbours; None where nothing was measured."""
    found, name = run.evaluation, plain(data_name(run.manifest))
    if found is not None:
        rows = found.rows if isinstance(found, MultiLabelFile) else _rows(found)
        left_out = f"; {found.undecodable:,} more do not decode" if found.undecodable else ""
        return Results(rows, f"{found.images:,} images of {name}, split {plain(found.split)}, each once{left_out}")
    neighbours = nearest_neighbours(run)
    if neighbours is None:
        return None
    images = (
        f"{neighbours.images:,} images of {name}, split {plain(neighbours.split)}, each once, compared by "
        f"{_compared(run)} with {neighbours.train_images:,} training images"
    )
    return Results(tuple(_with_intervals(neighbours)), images)


def nearest_neighbours(run: FinishedRun) -> Neighbours | None:
    """Of an encoder the last accuracies by its nearest neighbours and by ridge regression, in metrics.jsonl."""
    config = run.config
    if isinstance(config, SupervisedConfig):
        return None
    found = [line for line in run.folder.read_metrics() if math.isfinite(number(line.get("knn_top1")))]
    if not found:
        return None
    knn = config.knn
    images = min(knn.most_held_out, run.manifest.split(config.held_out).present)
    train = min(knn.most_train, run.manifest.split(config.split).present)
    names = {
        "knn_top1": f"Top-1 of the {knn.neighbours} nearest neighbours",
        "linear_top1": "Top-1 of ridge regression",
    }
    shares = {name: number(found[-1].get(field)) for field, name in names.items()}
    scores = [share_score(name, top1, images, config.seed) for name, top1 in shares.items() if math.isfinite(top1)]
    return Neighbours(config.held_out, images, train, tuple(scores))


def _with_intervals(neighbours: Neighbours) -> Iterator[Row]:
    for score in neighbours.scores:
        low, high = score.details["confidence_interval"]
        yield score.name, f"{score.value:.2%}"
        yield f"{score.name}, {100 * score.details['level']:g} % interval", f"{low:.2%} to {high:.2%}"


def is_by_class_token(run: FinishedRun) -> bool:
    """Whether an encoder was measured by its class token, and not by the mean of its patch tokens."""
    return isinstance(run.config, FeatureDistillConfig) and run.config.measured == "class"


def _compared(run: FinishedRun) -> str:
    return "their class token" if is_by_class_token(run) else "the mean of their patch tokens"


def _rows(found: EvaluationFile) -> tuple[Row, ...]:
    rows = [(metric, with_error(share, found.images)) for metric, share in accuracies(found).items()]
    rows.append(("Mean over classes", f"{found.mean_class_accuracy:.2%}"))
    rows.append(("Negative log-likelihood", f"{found.nll:.4g} nats"))
    if found.ece is not None:
        rows.append(("Expected calibration error", f"{found.ece:.2%}"))
    if found.intervals is not None:
        low, high = found.intervals.top1
        rows.append((f"Top-1, {100 * found.intervals.level:g} % interval", f"{low:.2%} to {high:.2%}"))
    return tuple(rows)


def per_class(run: FinishedRun) -> list[tuple[str, str, str]]:
    """Class, images, and the share of them that is recognised; nothing for very many classes."""
    found = run.evaluation
    if found is None or len(found.classes) > _MOST_CLASSES:
        return []
    if isinstance(found, MultiLabelFile):
        shares = zip(found.classes, found.images_per_class, found.average_precision, strict=True)
        return [
            (plain(name), f"{images:,}", "no images" if share is None else f"{share:.1%}")
            for name, images, share in shares
        ]
    rows = []
    for place, (name, counts) in enumerate(zip(found.classes, found.confusion, strict=True)):
        images = sum(counts)
        rows.append((plain(name), f"{images:,}", f"{counts[place] / images:.1%}" if images else "no images"))
    return rows
