"""What is learnt from which images: whose labels are looked at, and whose are not."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.batch import Batch
from data_pipeline.manifest import Manifest
from data_pipeline.rows import Part, Substitution
from launch.console import Console
from pretrain.backbone_config import BackboneConfig
from pretrain.config import OptimizerConfig
from pretrain.supervised_config import SupervisedConfig
from pretrain.task import Task, Watched, read_task

CONFIG = SupervisedConfig(
    BackboneConfig("vit_tiny_patch16_224"), 2.0, 4, OptimizerConfig(warmup_epochs=0.0), data="d", init="none", out="r"
)


@pytest.fixture
def digits(tmp_path: Path, datasets: ModuleType) -> Manifest:
    """60 images to train on, of which two have no label, and 20 to test on."""
    train = datasets.write_dataset(tmp_path / "data", [40, 20], unlabelled=[7, 50])
    test = datasets.write_dataset(tmp_path / "data", [20], split="test")
    return replace(train, splits=train.splits | test.splits)


@pytest.fixture
def read(digits: Manifest) -> Callable[..., tuple[Task, str]]:
    """A task of the digits by options, and what the user is told: `read(unlabelled=True, labels=2)`."""

    def read(*, unlabelled: bool = False, **options: Any) -> tuple[Task, str]:
        said = io.StringIO()
        return read_task(
            replace(CONFIG, **options), digits, Console(stream=said), unlabelled=unlabelled
        ), said.getvalue()

    return read


def batch(samples: list[int], labels: list[int], *substitutions: Substitution) -> Batch:
    numbers, zeros = np.asarray(samples), np.zeros(len(samples), np.int64)
    pixels = torch.zeros(len(samples), 1, 2, 2, 3, dtype=torch.uint8)
    return Batch((pixels,), torch.tensor(labels), np.arange(len(samples)), zeros, numbers, zeros, substitutions)


def targets(labelled: list[int] | None, rows: Batch) -> tuple[list[list[float]], list[bool]]:
    part = Part(object.__new__(Manifest), "train")  # no image is read here
    watched = Watched(part, np.arange(0), None, is_held_out=True)
    numbers = None if labelled is None else np.asarray(labelled, np.int64)
    task = Task(part, None, "", ("x", "y"), None, watched, watched, numbers)
    found, known = task.targets(rows, 0.0)
    return found.tolist(), known.tolist()


def test_labels_of_others_are_not_looked_at():
    rows = batch([3, 4, 9, 2], [0, 1, 1, -1])
    assert targets([2, 3, 9], rows) == ([[1, 0], [0, 0], [0, 1], [0, 0]], [True, False, True, False])
    assert targets(None, rows) == ([[1, 0], [0, 1], [0, 1], [0, 0]], [True, True, True, False])
    assert targets([], rows) == ([[0, 0]] * 4, [False] * 4)


def test_a_label_is_that_of_the_image_shown():
    """A row whose own image does not decode shows another, and has the label of that."""
    stand_ins = Substitution(0, 3, 4, "broken"), Substitution(0, 5, 9, "broken")
    rows = batch([3, 5, 9, 4], [1, 0, 0, 1], *stand_ins)
    assert targets([3, 9], rows)[1] == [False, True, True, False]


def test_without_a_label_an_image_takes_part_only_where_it_is_asked_for(read: Callable[..., tuple[Task, str]]):
    task, said = read()
    assert task.members is not None
    assert (len(task.members), task.labelled, said) == (58, None, "")
    task, said = read(unlabelled=True)
    assert task.members is not None
    assert task.labelled is not None
    assert task.members.tolist() == list(range(60))
    assert task.labelled.tolist() == [number for number in range(60) if number not in (7, 50)]
    assert said == "58 images take part with their labels, 2 without\n"


def test_where_all_have_labels_nobody_takes_part_without(digits: Manifest):
    said = io.StringIO()
    config = replace(CONFIG, split="test")
    task = read_task(config, digits, Console(stream=said), unlabelled=True)
    assert task.labelled is None
    assert said.getvalue() == "20 images take part with their labels, 0 without\n"


def test_those_that_are_not_chosen_take_part_without_their_labels(read: Callable[..., tuple[Task, str]]):
    alone, _ = read(labels=3, validation=0.3)
    task, said = read(labels=3, validation=0.3, unlabelled=True)
    assert task.watched.samples.tolist() == alone.watched.samples.tolist()
    assert len(task.watched.samples) == 10
    assert task.members is not None
    assert alone.members is not None
    assert task.labelled is not None
    assert sorted([*task.members, *task.watched.samples]) == list(range(60))
    assert task.labelled.tolist() == alone.members.tolist()
    assert said.splitlines() == [
        "validation on 10 of the training images, which are not trained on",
        "20 images take part with their labels, 30 without",
    ]
    rows = batch(list(range(60)), [-1 if number in (7, 50) else number % 10 for number in range(60)])
    assert np.flatnonzero(task.targets(rows, 0.1)[1]).tolist() == alone.members.tolist()


def test_balance_needs_a_class_of_every_image(read: Callable[..., tuple[Task, str]]):
    with pytest.raises(ValueError, match="samples without a class cannot be balanced by it"):
        read(balance=0.5, unlabelled=True)


def test_splits_without_labels_to_test_on_are_refused(digits: Manifest):
    with pytest.raises(ValueError, match="nowhere"):
        read_task(replace(CONFIG, held_out="nowhere"), digits, Console(rank=1))
    with pytest.raises(ValueError, match=r"this dataset has no labels; shard images in class folders or a table"):
        read_task(CONFIG, replace(digits, classes=None), Console(rank=1), unlabelled=True)
