"""What the rows of a batch show: whose pixels, and a number for each view."""

from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.batch import Batch
from data_pipeline.rows import Substitution


def batch(samples: list[int], datasets: Any = 0, epochs: Any = 0, *substitutions: Substitution) -> Batch:
    columns = [np.broadcast_to(np.asarray(values, np.int64), len(samples)) for values in (datasets, samples, epochs)]
    labels = torch.zeros(len(samples), dtype=torch.int64)
    return Batch((torch.zeros(len(samples), 1, 2, 2, 3),), labels, np.arange(len(samples)), *columns, substitutions)


def test_a_view_has_its_number_in_any_company():
    samples = [4, 7, 1_300_000, 0]
    together = batch(samples, epochs=[0, 3, 2, 1]).view_keys()
    assert together.dtype == np.int64
    assert (together >= 0).all()
    for row, (sample, slot) in enumerate(zip(samples, [0, 3, 2, 1], strict=True)):
        assert batch([9, sample], epochs=[5, slot]).view_keys()[1] == together[row]


@pytest.mark.parametrize("count", [20])
def test_datasets_samples_and_slots_all_tell_views_apart(count: int):
    datasets, samples, slots = (axis.ravel() for axis in np.meshgrid(*[np.arange(count)] * 3))
    keys = batch(samples.tolist(), datasets, slots).view_keys()
    assert len(np.unique(keys)) == count**3


def test_rows_that_show_another_sample_say_which():
    """A number is one of its dataset's: sample 2 of dataset 1 is another."""
    found = batch([2, 5, 2, 7], [0, 0, 1, 0], 0, Substitution(0, 2, 3, "broken"), Substitution(0, 7, 0, "broken"))
    assert found.shown.tolist() == [3, 5, 2, 0]
    assert found.samples.tolist() == [2, 5, 2, 7]
    assert found.substituted.tolist() == [True, False, False, True]
