"""What a model card tells of a run, as rows of Markdown text; without the names of machines and of their folders."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.manifest import Manifest
from finetune.classify_config import SCRATCH, ClassifyConfig
from finetune.finished_run import FinishedRun
from finetune.report_accuracy import EvaluationFile, with_error
from finetune.report_multi_label import MultiLabelFile
from finetune.task import read_task
from launch.console import Console
from launch.strict_json import read_json, to_json
from pretrain.mae_config import MaeConfig

_MOST_CLASSES = 50
_HUB = "Hub dataset "  # as data_pipeline/table_source.py describes one
_PLACES = ("data", "out", "init", "init_from", "resume")

Row = tuple[str, str]


@dataclass(frozen=True)
class Results:
    """What was measured, and on which images."""

    rows: tuple[Row, ...]
    images: str


def plain(text: str) -> str:
    """A name on one line that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|&~$])", r"\\\1", " ".join(text.split()))


def hub_dataset(manifest: Manifest) -> str | None:
    """The name on the Hub of the dataset that the images came from; None if they came from elsewhere."""
    source = str(manifest.made.get("source", ""))
    return source.removeprefix(_HUB) if source.startswith(_HUB) else None


def data_name(manifest: Manifest) -> str:
    """The dataset's name on the Hub, otherwise that of its folder."""
    return hub_dataset(manifest) or manifest.folder.resolve().name


def class_names(run: FinishedRun) -> str:
    """The classes in the order of the logits; the first of very many."""
    names = run.exported.class_names or ()
    more = len(names) - _MOST_CLASSES
    return ", ".join(map(plain, names[:_MOST_CLASSES])) + (f" and {more:,} more" if more > 0 else "")


def how_it_was_made(run: FinishedRun) -> list[Row]:
    """Recipe, data, length and seed of the training."""
    config, manifest = run.config, run.manifest
    split = manifest.split(config.split)
    images = split.present
    if isinstance(config, ClassifyConfig):
        method, started_from = "fine-tuned as a classifier", config.init
        labels = "all" if config.labels is None else f"{config.labels:,} images a class, chosen by the seed"
        if config.label_field is not None:
            labels = f"several an image, of the field {plain(config.label_field)}"
        members = read_task(config, manifest, Console(rank=1)).members
        images = images if members is None else len(np.unique(members))
    else:
        method, started_from = "pre-trained as a masked autoencoder (arXiv:2111.06377)", config.init_from or SCRATCH
        labels = "none used"
    weights = "new weights" if started_from == SCRATCH else f"the weights of {plain(Path(started_from).name)}"
    return [
        ("Method", f"{method}, recipe {plain(run.recipe)}"),
        ("Started from", weights),
        ("Data", f"{plain(data_name(manifest))}, split {plain(config.split)}"),
        ("Fingerprint of the split", f"`{split.fingerprint}`"),
        ("Images", f"{images:,}"),
        ("Labels", labels),
        ("Epochs", f"{config.epochs:g}, in {run.checkpoint.step:,} steps"),
        ("Batch", f"{config.batch_size:,}"),
        ("Seed", str(config.seed)),
    ]


def settings(run: FinishedRun) -> str:
    """All other settings, as JSON."""
    told = {name: value for name, value in to_json(run.config).items() if name not in _PLACES}
    return json.dumps(told, indent=1, ensure_ascii=False)


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
    neighbours = [line["knn_top1"] for line in run.folder.read_metrics() if "knn_top1" in line]
    if not neighbours or not isinstance(run.config, MaeConfig):
        return None
    config, knn = run.config, run.config.knn
    most = min(knn.most_held_out, run.manifest.split(config.held_out).present)
    train = min(knn.most_train, run.manifest.split(config.split).present)
    images = (
        f"{most:,} images of {name}, split {plain(config.held_out)}, each once, compared by the mean of their patch "
        f"tokens with {train:,} training images"
    )
    return Results(((f"Top-1 of the {knn.neighbours} nearest neighbours", f"{neighbours[-1]:.2%}"),), images)


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
    for number, (name, counts) in enumerate(zip(found.classes, found.confusion, strict=True)):
        images = sum(counts)
        rows.append((plain(name), f"{images:,}", f"{counts[number] / images:.1%}" if images else "no images"))
    return rows


def trained_with(run: FinishedRun) -> list[Row]:
    """The machine and the versions of the training."""
    found = read_json(run.folder.environment)
    versions = {"python": found["python"], **found["versions"]}
    revision = found["git"]
    rows = [
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)),
        ("Machine", f"{found['platform']}; {found['cpu_count']} CPU cores; {found['device']}"),
        ("Processes", str(found["world"])),
        ("Threads of each", str(found["threads"])),
        ("Precision", run.config.precision),
    ]
    if revision is not None:
        changed = ", with changes" if revision["dirty"] else ""
        rows.insert(1, ("Revision of sherd", f"`{revision['revision']}`{changed}"))
    return [(name, plain(value) if name == "Machine" else value) for name, value in rows]
