"""An evaluation of any classifier: its images, its figures, and where they are written."""

from pathlib import Path
from typing import Any

from data_pipeline.manifest import read_manifest
from data_pipeline.rows import Part
from data_pipeline.text_table import text_table
from finetune.ready_classifier import open_classifier
from finetune.validate_config import ValidateConfig
from finetune.validation_figures import draw_confusion, draw_reliability
from finetune.validation_question import Found, one_class, several_labels
from finetune.written_folder import WrittenFolder
from launch.atomic import write_json
from launch.console import Console
from launch.redaction import redact
from pretrain.accuracy import Accuracy
from pretrain.intervals import Bootstrap, Interval
from pretrain.label_set_file import write_label_sets
from pretrain.prediction_file import PREDICTIONS, write_predictions
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
_FIGURES_OF_SEVERAL = {
    "mean_average_precision": "mean average precision",
    "micro_f1": "F1 of all labels",
    "macro_f1": "F1, mean over classes",
    "exact_match": "every label right",
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
        part = _part(config.data, config.split)
        classifier = open_classifier(config, part, world)
        source = classifier.source
        ask = one_class if config.label_field is None else several_labels
        question = ask(config, source, part, console)
        console.say(
            f"{source.path}: {source.backbone.name} of {source.classes:,} classes; images {classifier.prepared}"
        )
        found = question.put_to(classifier, part, config, console)
        if world.rank > 0:
            return {}
        found = found.with_intervals(Bootstrap(config.draws, config.seed))
        result = {
            "format": _FORMAT,
            "version": 1,
            "model": source.name,
            "model_sha256": source.sha256,
            "architecture": source.backbone.name,
            "data": redact(config.data),
            "split": config.split,
            **({} if config.label_field is None else {"label_field": config.label_field}),
            "fingerprint": part.manifest.split(config.split).fingerprint,
            "preparation": classifier.preparation,
            "precision": config.precision,
            "batch_size": config.batch_size,
            **found.to_json(question.names),
        }
        how: dict[str, Any] = {"classes": question.names, "model_sha256": result["model_sha256"]}
        title = f"{source.backbone.name} on {found.images:,} images [{config.split}]"
        written = [EVALUATION, PREDICTIONS]
        with out.replaced() as folder:
            write_json(folder / EVALUATION, result)
            if isinstance(found, Accuracy):
                write_predictions(folder / PREDICTIONS, found.predictions, part, **how)
                draw_reliability(folder / RELIABILITY, found, title)
                draw_confusion(folder / CONFUSION, found, question.names, title)
                written += [RELIABILITY, CONFUSION]
            else:
                write_label_sets(folder / PREDICTIONS, found, part, **how)
        console.say(_table(found, f"{redact(config.data)} [{config.split}]"))
        console.say(f"done: {config.out} holds {', '.join(written)}")
        return result


def _part(data: str, split: str) -> Part:
    manifest = read_manifest(data)
    if split not in manifest.splits:
        names = ", ".join(manifest.splits)
        raise ValueError(f"--split {split}: {manifest.folder} has no such split, expected one of {names}")
    return Part(manifest, split)


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


def _table(found: Found, where: str) -> str:
    bootstrap = found.bootstrap
    assert bootstrap is not None
    rows = []
    for name, title in (_FIGURES if isinstance(found, Accuracy) else _FIGURES_OF_SEVERAL).items():
        numbers = (getattr(found, name), *(_interval(found, name) or ()))
        texts = [f"{number:.4f}" if name in ("nll", "brier") else f"{number:.2%}" for number in numbers]
        rows.append((title, texts[0], " to ".join(texts[1:])))
    left_out = f", {found.undecodable:,} more do not decode" if found.undecodable else ""
    heading = f"{found.images:,} images of {where}, each once{left_out}"
    return f"\n{heading}\n\n{text_table(('', 'value', f'{100 * bootstrap.level:g} % interval'), rows)}\n"


def _interval(found: Found, name: str) -> Interval | None:
    if isinstance(found, Accuracy):
        assert found.intervals is not None
        return found.intervals[name]
    return found.interval if name == "mean_average_precision" else None
