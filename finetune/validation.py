"""An evaluation of any classifier: its images, its figures, and where they are written."""

from pathlib import Path
from typing import Any

from torch import Tensor

from data_pipeline.manifest import read_manifest
from data_pipeline.rows import Part
from data_pipeline.text_table import text_table
from finetune.class_mapping import ClassMapping, map_classes
from finetune.ready_classifier import ReadyClassifier, open_classifier
from finetune.validate_config import ValidateConfig
from finetune.validation_figures import draw_confusion, draw_reliability
from finetune.written_folder import WrittenFolder
from launch.atomic import write_json
from launch.console import Console
from launch.redaction import redact
from pretrain.accuracy import Accuracy, evaluate_split
from pretrain.intervals import Bootstrap
from pretrain.prediction_file import PREDICTIONS, write_predictions
from pretrain.session import loader_workers
from pretrain.world import World

EVALUATION, RELIABILITY, CONFUSION = "evaluation.json", "reliability.png", "confusion.png"
_FORMAT = "sherd-validation"
_FIGURES = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_class_accuracy": "mean over classes",
    "ece": "ECE",
    "nll": "NLL, nats",
    "brier": "Brier score",
}


def validate(config: ValidateConfig, world: World, console: Console | None = None) -> dict[str, Any]:
    """Evaluate as the config says; on rank 0 what evaluation.json then holds, and {} elsewhere.

    Raises:
        ValueError: the folder is not its own, the model does not fit, or anything else that a user can mend.
    """
    assert config.data is not None
    assert config.out is not None
    console = console or Console(world.rank)
    out = WrittenFolder(
        Path(config.out), frozenset({EVALUATION, PREDICTIONS, RELIABILITY, CONFUSION}), EVALUATION, _FORMAT
    )
    with world.naming_the_lost():
        _check(out, world)
        part, names = _labelled(config.data, config.split)
        classifier = open_classifier(config, part, world)
        source = classifier.source
        classes = map_classes(names, source.class_names, source.classes, config.classes, console)
        console.say(
            f"{source.path}: {source.backbone.name} of {source.classes:,} classes; images {classifier.prepared}"
        )
        accuracy = _evaluate(config, classifier, part, classes, console)
        if world.rank > 0:
            return {}
        accuracy = accuracy.with_intervals(Bootstrap(config.draws, config.seed))
        result = {
            "format": _FORMAT,
            "version": 1,
            "model": source.name,
            "model_sha256": source.sha256,
            "architecture": source.backbone.name,
            "data": redact(config.data),
            "split": config.split,
            "fingerprint": part.manifest.split(config.split).fingerprint,
            "preparation": classifier.preparation,
            "precision": config.precision,
            "batch_size": config.batch_size,
            **accuracy.to_json(classes.names),
        }
        title = f"{source.backbone.name} on {accuracy.images:,} images [{config.split}]"
        with out.replaced() as folder:
            write_json(folder / EVALUATION, result)
            draw_reliability(folder / RELIABILITY, accuracy, title)
            draw_confusion(folder / CONFUSION, accuracy, classes.names, title)
            write_predictions(
                folder / PREDICTIONS,
                accuracy.predictions,
                part,
                classes=classes.names,
                model_sha256=result["model_sha256"],
            )
        console.say(_table(accuracy, f"{redact(config.data)} [{config.split}]"))
        console.say(f"done: {config.out} holds {', '.join((EVALUATION, PREDICTIONS, RELIABILITY, CONFUSION))}")
        return result


def _labelled(data: str, split: str) -> tuple[Part, tuple[str, ...]]:
    """The split, and the names of the dataset's classes."""
    manifest = read_manifest(data)
    if split not in manifest.splits:
        names = ", ".join(manifest.splits)
        raise ValueError(f"--split {split}: {manifest.folder} has no such split, expected one of {names}")
    if manifest.classes is None:
        raise ValueError(
            f"--data {redact(data)}: this dataset has no labels; shard images in class folders, or a table with a "
            "label column"
        )
    return Part(manifest, split), manifest.classes


def _check(out: WrittenFolder, world: World) -> None:
    """Rank 0 looks at the folder. The others wait for it and, where it is refused, leave quietly: it says why."""
    is_fit = False
    try:
        if world.rank == 0:
            out.check()
        is_fit = True
    finally:
        is_refused = world.any(not is_fit)
    if is_refused:
        raise SystemExit(1)


def _evaluate(
    config: ValidateConfig, classifier: ReadyClassifier, part: Part, classes: ClassMapping, console: Console
) -> Accuracy:
    world = classifier.world
    total = sum(part.manifest.split(part.split).class_counts)
    with console.progress(total, label="evaluated") as progress:

        def counted(images: Tensor) -> Tensor:
            logits = classifier(images)
            # The last chunk is padded, and other processes work on theirs.
            progress.advance(min(len(images) * world.size, max(0, total - progress.position)))
            return logits

        return evaluate_split(
            counted,
            part,
            classifier.view,
            world,
            workers=loader_workers(config.workers, world),
            class_numbers=classes.numbers,
            chunk=config.batch_size,
        )


def _table(accuracy: Accuracy, where: str) -> str:
    assert accuracy.bootstrap is not None
    assert accuracy.intervals is not None
    level = f"{100 * accuracy.bootstrap.level:g} % interval"
    rows = []
    for name, title in _FIGURES.items():
        value, (low, high) = getattr(accuracy, name), accuracy.intervals[name]
        is_share = name not in ("nll", "brier")
        texts = [f"{number:.2%}" if is_share else f"{number:.4f}" for number in (value, low, high)]
        rows.append((title, texts[0], f"{texts[1]} to {texts[2]}"))
    left_out = f", {accuracy.undecodable:,} more do not decode" if accuracy.undecodable else ""
    heading = f"{accuracy.images:,} images of {where}, each once{left_out}"
    return f"\n{heading}\n\n{text_table(('', 'value', level), rows)}\n"
