"""What a classifier is asked of each image of a split: which one class it is of, or which labels it has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipeline.label_sets import read_label_sets
from data_pipeline.rows import Part
from finetune.class_mapping import map_classes
from finetune.ready_classifier import ReadyClassifier
from finetune.validate_config import ValidateConfig
from launch.console import Console
from launch.redaction import redact
from pretrain.accuracy import Accuracy, evaluate_split
from pretrain.model_source import ModelSource
from pretrain.multi_label_accuracy import MultiLabelAccuracy, evaluate_multi_label_split
from pretrain.session import loader_workers

Found = Accuracy | MultiLabelAccuracy


@dataclass(frozen=True)
class Question:
    """names: of the model's classes, by number. images: that have an answer. `evaluate` takes what gives logits and
    the options of an evaluation.
    """

    names: tuple[str, ...]
    images: int
    evaluate: Callable[..., Found]

    def put_to(self, classifier: ReadyClassifier, part: Part, config: ValidateConfig, console: Console) -> Found:
        """Evaluate each image once; every process must call it. Raises ValueError as the evaluation does."""
        world = classifier.world
        with console.progress(self.images, label="evaluated") as progress:

            def counted(images: Tensor) -> Tensor:
                logits = classifier(images)
                # The last chunk is padded, and other processes work on theirs.
                progress.advance(min(len(images) * world.size, max(0, self.images - progress.position)))
                return logits

            how: dict[str, Any] = {"workers": loader_workers(config.workers, world), "chunk": config.batch_size}
            return self.evaluate(counted, part, classifier.view, world, **how)


def one_class(config: ValidateConfig, source: ModelSource, part: Part, console: Console) -> Question:
    """Which class an image is of. Raises ValueError where the dataset has none, or the model lacks some."""
    manifest = part.manifest
    if manifest.classes is None:
        raise ValueError(
            f"--data {redact(str(config.data))}: this dataset has no labels; shard images in class folders, or a table "
            "with a label column"
        )
    classes = map_classes(manifest.classes, source.class_names, source.classes, config.classes, console)

    def evaluate(logits_of: Callable[[Tensor], Tensor], *what: Any, **how: Any) -> Accuracy:
        return evaluate_split(logits_of, *what, class_numbers=classes.numbers, **how)

    return Question(classes.names, sum(manifest.split(part.split).class_counts), evaluate)


def several_labels(config: ValidateConfig, source: ModelSource, part: Part, console: Console) -> Question:
    """Which labels an image has, by the model's names; by number where it has none or --classes number says so.

    Raises:
        ValueError: no image has the field, or a label that the model lacks; another number of labels than the model's.
    """
    field = config.label_field
    assert field is not None
    by_number = config.classes == "number" or source.class_names is None
    with console.progress(part.manifest.split(part.split).present, unit="samples", label=field) as progress:
        names = None if by_number else source.class_names
        sets = read_label_sets(part.manifest, part.split, field, names, report=progress.advance)
    if len(sets.names) != source.classes:
        unnamed = "" if source.class_names is not None else ", and the model does not name its own"
        raise ValueError(
            f"--model has {source.classes:,} classes and {field!r} of {part.manifest.folder} [{part.split}] "
            f"{len(sets.names):,} labels{unnamed}: expected as many; give a model of the same labels"
        )
    if by_number:
        console.say("labels by number: label k in sorted order is taken for class k of the model")
    chosen = np.flatnonzero(sets.known)

    def evaluate(logits_of: Callable[[Tensor], Tensor], *what: Any, **how: Any) -> MultiLabelAccuracy:
        def targets_of(samples: Any) -> Tensor:
            return torch.from_numpy(sets.targets(samples))

        return evaluate_multi_label_split(logits_of, targets_of, *what, samples=chosen, **how)

    return Question(sets.names, len(chosen), evaluate)
