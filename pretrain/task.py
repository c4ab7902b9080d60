"""What a classifier learns from which images: classes, and the samples to train, to validate and to test on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data_pipeline.label_sets import LabelSets, read_label_sets
from data_pipeline.manifest import NO_LABEL, Manifest
from data_pipeline.order import Integers
from data_pipeline.rows import Part
from data_pipeline.sample_rules import choose_samples
from data_pipeline.stream import Batch
from data_pipeline.subset import read_labels
from launch.console import Console
from pretrain.mixing import soft_targets
from pretrain.supervised_config import SupervisedConfig


@dataclass(frozen=True)
class Watched:
    """The images that evaluations during a run are of: sorted sample numbers of a split, and their label sets, if any.

    `is_held_out`: they are those of the final evaluation, too.
    """

    part: Part
    samples: Integers
    sets: LabelSets | None
    is_held_out: bool


@dataclass(frozen=True)
class Task:
    """What is learnt. `members` are the training samples, None for the whole split, and `subset` names their rule.

    Where images have several labels, `sets` are those of the training images.
    """

    part: Part
    members: Integers | None
    subset: str
    classes: tuple[str, ...]
    sets: LabelSets | None
    watched: Watched
    held_out: Watched
    labelled: Integers | None = None
    """Sorted numbers of the training samples whose labels may be looked at; None: of all."""

    def targets(self, batch: Batch, smoothing: float) -> tuple[Float[Tensor, "b classes"], Bool[Tensor, " b"]]:
        """What a model should say of each row, smoothed, and whether that is known: of what stands in for an image that
        does not decode it may not be, and its targets are zeros.
        """
        if self.sets is None:
            labels = batch.labels
            if self.labelled is not None:
                # A label is that of the sample shown, which may be another than the row's own.
                first, end = (np.searchsorted(self.labelled, batch.shown, side=side) for side in ("left", "right"))
                labels = torch.where(torch.from_numpy(end > first), labels, NO_LABEL)
            return soft_targets(labels, len(self.classes), smoothing), labels >= 0
        known = batch.substituted.logical_not()
        whole = torch.from_numpy(self.sets.targets(batch.samples)).float()
        smoothed = whole * (1 - smoothing) + smoothing / 2  # each class is a question with two answers
        return smoothed * known[:, None], known


def read_task(config: SupervisedConfig, manifest: Manifest, console: Console, *, unlabelled: bool = False) -> Task:
    """Find out from a dataset's labels what is to be learnt.

    `unlabelled`: all images of the training split but those for validation take part, and of those that the config does
    not choose the labels are not looked at.

    Raises:
        ValueError: labels, a split, a class or a field is missing.
    """
    manifest.split(config.held_out)  # refused now, not after the training
    part, held_out = Part(manifest, config.split), Part(manifest, config.held_out)
    sets = tested = None
    if config.label_field is not None:
        sets = _read_sets(manifest, config.split, config.label_field, None, console)
        tested = _read_sets(manifest, config.held_out, config.label_field, sets.names, console)
    chosen = choose_samples(
        manifest,
        config.split,
        seed=config.seed,
        per_class=config.labels,
        hold_out_share=config.validation or None,
        balance=config.balance or None,
        label_sets=sets,
        everyone=unlabelled,
    )
    classes = manifest.classes if sets is None else sets.names
    assert classes is not None
    asked = np.flatnonzero(read_labels(manifest, config.held_out) >= 0 if tested is None else tested.known)
    if len(asked) == 0:
        raise ValueError(f"{manifest.folder} [{config.held_out}]: no image has a label; name another split: --held-out")
    watched = final = Watched(held_out, asked, tested, is_held_out=True)
    if chosen.validation is not None:
        watched = Watched(part, chosen.validation, sets, is_held_out=False)
        console.say(f"validation on {len(chosen.validation):,} of the training images, which are not trained on")
    if config.balance > 0 and chosen.training is not None:
        images, places = len(np.unique(chosen.training)), len(chosen.training)
        console.say(f"classes balanced by {config.balance:g}: {images:,} images have {places:,} places an epoch")
    if unlabelled:
        assert chosen.training is not None
        count = len(chosen.training)
        labelled = count if chosen.labelled is None else len(chosen.labelled)
        console.say(f"{labelled:,} images take part with their labels, {count - labelled:,} without")
    return Task(part, chosen.training, chosen.subset, classes, sets, watched, final, chosen.labelled)


def _read_sets(manifest: Manifest, split: str, field: str, names: Sequence[str] | None, console: Console) -> LabelSets:
    total = manifest.split(split).present
    with console.progress(total, unit="samples", label=f"{field} of {split}") as progress:
        return read_label_sets(manifest, split, field, names, report=progress.advance)
