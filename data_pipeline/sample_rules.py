"""The rules that choose the samples of a run, one after another, and their names, by which a survey applies them anew.

A plan's `subset` is the names of its rules joined by "+". Each ends with the hash of what the rule has left.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np

from data_pipeline.balance import balanced_samples
from data_pipeline.label_sets import LabelSets, read_label_sets
from data_pipeline.manifest import Manifest
from data_pipeline.order import Integers, subset_hash
from data_pipeline.subset import hold_out, labelled_samples

_HASH = "-[0-9a-f]{16}"
_SUBSET = re.compile(
    rf"(?P<first>(labelled|(?P<per_class>[0-9]+)-a-class|with-(?P<field>[^+]+)){_HASH}(\+|$))?"
    rf"(hold-out-(?P<share>[0-9.e-]+){_HASH}(\+|$))?"
    rf"((balanced-(?P<power>[0-9.e-]+)|(?P<everyone>everyone)){_HASH})?"
)


class Chosen(NamedTuple):
    """Sorted sample numbers; None for the whole split, or for no hold-out. `subset` is for the plan.

    Balanced training samples stand there once for each place in an epoch. `labelled`: those of the training samples
    that the rules for labels have chosen, None for all.
    """

    training: Integers | None
    validation: Integers | None
    subset: str
    labelled: Integers | None = None


def choose_samples(
    manifest: Manifest,
    split: str,
    *,
    seed: int,
    per_class: int | None = None,
    hold_out_share: float | None = None,
    balance: float | None = None,
    label_sets: LabelSets | None = None,
    everyone: bool = False,
) -> Chosen:
    """The samples that a classifier is trained on, and those that are held out of them to look at meanwhile.

    Args:
        per_class: only so many images of each class (see `labelled_samples`).
        hold_out_share: share of them that is held out (see `hold_out`).
        balance: power by which the classes of the rest are balanced (see `balanced_samples`).
        label_sets: of the split, instead of classes: takes the samples that have one.
        everyone: all samples but those held out are trained on, and the chosen ones are those whose labels count.

    Raises:
        ValueError: as each rule does, label sets beside what is for classes, and a balance of everyone.
    """
    if everyone and balance is not None:
        raise ValueError("samples without a class cannot be balanced by it: choose either everyone or a balance")
    if label_sets is not None and (per_class is not None or balance is not None):
        raise ValueError("samples with several labels have no one class: choose neither so many a class nor a balance")
    first = labelled_samples(manifest, split, per_class, seed) if label_sets is None else label_sets.members()
    return _go_on(manifest, split, first, seed=seed, share=hold_out_share, power=balance, everyone=everyone)


def choose_anew(manifest: Manifest, split: str, subset: str, seed: int) -> Integers | None:
    """The samples to train on by the rules that a plan's `subset` names, None for all.

    Raises:
        ValueError: a rule that is not known here, or they choose others now.
    """
    if not subset:
        return None
    named = _SUBSET.fullmatch(subset)
    if named is None:
        raise ValueError(
            f"the plan's subset {subset!r} is of no rule known here: give its sample numbers: --members FILE.npy"
        )
    per_class, field, share, power = named.group("per_class", "field", "share", "power")
    if field is not None:
        first = read_label_sets(manifest, split, unquote(field)).members()
    elif named["first"] is not None:
        first = labelled_samples(manifest, split, None if per_class is None else int(per_class), seed)
    else:
        first = None, ""  # every sample
    numbers = {name: None if text is None else float(text) for name, text in (("share", share), ("power", power))}
    chosen = _go_on(manifest, split, first, seed=seed, everyone=named["everyone"] is not None, **numbers)
    if chosen.subset != subset:
        raise ValueError(f"the plan's subset is {subset!r}, chosen anew it is {chosen.subset or 'every sample'!r}")
    return chosen.training


def _go_on(
    manifest: Manifest,
    split: str,
    first: tuple[Integers | None, str],
    *,
    seed: int,
    share: float | None,
    power: float | None,
    everyone: bool,
) -> Chosen:
    """What the rules after the first one leave of what that has chosen."""
    training, name = first
    names, validation = [name], None
    if share is not None:
        training, validation, name = hold_out(manifest, split, training, share, seed)
        names.append(name)
    if power is not None:
        training, name = balanced_samples(manifest, split, training, power, seed)
        names.append(name)
    if not everyone:
        return Chosen(training, validation, "+".join(filter(None, names)))
    labelled, training = training, manifest.split(split).members()
    if validation is not None:
        training = np.setdiff1d(training, validation)
    names.append(f"everyone-{subset_hash(training)}")
    return Chosen(training, validation, "+".join(filter(None, names)), labelled)
