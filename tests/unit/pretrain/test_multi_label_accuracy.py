"""Metrics of several labels an image, worked by hand, and of a dataset that holds what does not decode."""

import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipeline.augment import CenterCrop
from data_pipeline.rows import Part
from pretrain.intervals import Bootstrap
from pretrain.multi_label_accuracy import evaluate_multi_label_split, measure_multi_label
from pretrain.world import World


def test_four_images_by_hand():
    """First class: ranked right, wrong, right, wrong: (1/1 + 2/3) / 2. Second: the one right is last: 1/4. No third."""
    logits = torch.tensor([[3.0, 1.0, -1.0], [2.0, 2.0, -1.0], [1.0, 3.0, -1.0], [-1.0, -2.0, -1.0]])
    targets = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]]).bool()
    found = measure_multi_label(logits, targets, undecodable=1)
    assert (found.images, found.undecodable) == (4, 1)
    assert found.average_precision[:2].tolist() == pytest.approx([5 / 6, 1 / 4])
    assert math.isnan(found.average_precision[2])
    assert found.mean_average_precision == pytest.approx((5 / 6 + 1 / 4) / 2)
    # First: 2 hits of 3 claims and 2 positives; second: none of 3 and 1.
    assert found.micro_f1 == pytest.approx(2 * 2 / (5 + 4))
    assert found.macro_f1 == pytest.approx((4 / 5 + 0) / 2)
    assert found.exact_match == 0
    written = json.loads(json.dumps(found.with_intervals(Bootstrap(100)).to_json(("a", "b", "c"))))
    assert written["average_precision"][2] is None
    assert written["images_per_class"] == [2, 1, 0]
    low, high = written["intervals"]["mean_average_precision"]
    assert low <= found.mean_average_precision <= high
    assert list(found.summary()) == ["mean_average_precision", "micro_f1", "macro_f1", "exact_match"]


def test_equal_logits_are_found_together():
    found = measure_multi_label(torch.zeros(5, 1), torch.tensor([[True], [False], [False], [True], [False]]))
    assert found.average_precision.tolist() == [0.4]


def test_a_split_once_each_without_what_does_not_decode(datasets: ModuleType, tmp_path: Path):
    manifest = datasets.write_dataset(tmp_path / "d", [25, 5], broken=[4, 27], withdrawn=[10])
    asked: list[int] = []

    def logits_of(images: Tensor) -> Tensor:
        numbers = images[:, 0, 0, 0].long()
        return torch.stack([numbers % 2, numbers % 3], dim=1).float() - 0.5

    def targets_of(samples: np.ndarray) -> Tensor:
        asked.extend(samples.tolist())
        return torch.from_numpy(np.stack([samples % 2 > 0, samples % 3 > 0], axis=1))

    part, view, world = Part(manifest, "train"), CenterCrop((8, 8)), World("fp32")
    found = evaluate_multi_label_split(logits_of, targets_of, part, view, world, workers=0, chunk=8)
    assert asked == [number for number in range(30) if number not in (4, 10, 27)]
    assert (found.images, found.undecodable, found.exact_match, found.mean_average_precision) == (27, 2, 1, 1)
    some = np.array([1, 2, 4])
    found = evaluate_multi_label_split(logits_of, targets_of, part, view, world, workers=0, samples=some)
    assert (found.images, found.undecodable, found.positives.tolist()) == (2, 1, [1, 2])
    with pytest.raises(ValueError, match=r"d \[train\]: expected finite logits, got others; look at the weights"):
        evaluate_multi_label_split(lambda images: logits_of(images) / 0, targets_of, part, view, world, workers=0)
    with pytest.raises(
        ValueError, match=r"d \[train\]: none of 27 images has a label; evaluate a split that has labels"
    ):
        evaluate_multi_label_split(logits_of, lambda samples: targets_of(samples) & False, part, view, world, workers=0)
