"""Which of a model's classes each class of a dataset is."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from launch.console import Console


class ClassMapping(NamedTuple):
    """names: of the model's classes, by number. numbers: the model's number of each of the dataset's, None where it is
    the same.
    """

    names: tuple[str, ...]
    numbers: NDArray[np.int64] | None


def map_classes(
    dataset: tuple[str, ...],
    model: tuple[str, ...] | None,
    count: int,
    by: Literal["name", "number"],
    console: Console,
) -> ClassMapping:
    """Find the dataset's classes among the `count` of the model, which may have no names; say what is not plain.

    Raises:
        ValueError: other numbers of classes, names that the model lacks, or that it has twice.
    """
    if by == "number" or model is None:
        if count != len(dataset):
            unnamed = "" if model is not None else ", and the model does not name its own"
            raise ValueError(
                f"--model has {count:,} classes and the dataset {len(dataset):,}{unnamed}: expected as many; give a "
                "model or a dataset of the same classes"
            )
        if model != dataset:
            why = "the model does not name its classes" if model is None else "as asked for"
            console.say(f"classes by number: class k of the dataset is taken for class k of the model ({why})")
        return ClassMapping(dataset, None)
    if model == dataset:
        return ClassMapping(model, None)
    places = {name: number for number, name in enumerate(model)}
    lacking = [name for name in dataset if name not in places]
    if lacking:
        same = " (if they are the same classes in the same order: --classes number)" * (count == len(dataset))
        raise ValueError(
            f"--model has {count:,} classes ({_some(model)}) and the dataset {len(dataset):,} ({_some(dataset)}): "
            f"expected all of the dataset's among the model's, which has no {lacking[0]!r}{same}; give a model or a "
            "dataset of the same classes"
        )
    twice = next((name for name in dataset if model.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"--model has several classes of the name {twice!r}, so names do not tell which is which; where the "
            "dataset's are in the same order: --classes number"
        )
    if count == len(dataset):
        console.say(f"the dataset has the model's {count:,} classes in another order: they are matched by name")
    else:
        console.say(
            f"the dataset has {len(dataset):,} of the model's {count:,} classes, matched by name; predictions are "
            f"among all {count:,}"
        )
    return ClassMapping(model, np.array([places[name] for name in dataset], np.int64))


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
