"""Intervals are functions of their seed, whatever adds their sums up."""

import numpy as np
import pytest
import torch

from pretrain.accuracy import measure
from pretrain.intervals import Bootstrap, summable


def test_every_draw_is_of_as_many_images_each_as_likely():
    counts = np.concatenate(list(Bootstrap(3000, seed=2).resampled(20)))
    assert counts.shape == (3000, 20)
    assert (counts.sum(axis=1) == 20).all()
    # The mean of 3,000 counts of expectation 1 and variance .95; their number of zeros is binomial.
    assert abs(counts.mean(axis=0) - 1).max() < 5 * np.sqrt(0.95 / 3000)
    assert (counts == 0).mean() == pytest.approx(0.95**20, abs=0.01)
    assert abs(np.corrcoef(counts[:-1].ravel(), counts[1:].ravel())[0, 1]) < 0.02


def test_draws_do_not_depend_on_how_many_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch):
    whole = np.concatenate(list(Bootstrap(100).resampled(30)))
    monkeypatch.setattr("pretrain.intervals._AT_ONCE", 70)
    pieces = list(Bootstrap(100).resampled(30))
    assert len(pieces) == 50
    assert (np.concatenate(pieces) == whole).all()
    assert (np.concatenate(list(Bootstrap(100, seed=1).resampled(30))) != whole).any()


def test_sums_are_the_same_bits_in_any_order():
    random = np.random.default_rng(0)
    values = summable(random.exponential(2, (1000, 1)) * random.choice([1e-6, 1, 50], (1000, 1)))
    counts = random.multinomial(1000, np.full(1000, 1e-3), 20).astype(np.float64)
    expected = counts @ values
    for _ in range(5):
        order = random.permutation(1000)
        assert (counts[:, order] @ values[order] == expected).all()
        assert ((counts[:, order] * values[order, 0]).cumsum(axis=1)[:, -1:] == expected).all()
    np.testing.assert_array_equal(summable(np.array([[0.0], [1.0], [0.0]])), [[0.0], [1.0], [0.0]])
    assert summable(np.zeros((3, 1))).tolist() == [[0], [0], [0]]


def test_the_same_intervals_on_any_number_of_threads():
    generator = torch.Generator().manual_seed(0)
    found = measure(torch.randn(3000, 5, generator=generator), torch.randint(0, 5, (3000,), generator=generator))
    threads, intervals = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        intervals.append(found.with_intervals(Bootstrap(100)).intervals)
    torch.set_num_threads(threads)
    assert intervals[0] == intervals[1]


def test_of_good_calibration_the_interval_of_ece_lies_too_high():
    """As the documentation says: |accuracy - confidence| grows with noise, and resampling adds to it."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 2, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    found = measure(logits, labels).with_intervals(Bootstrap(500))
    assert found.intervals is not None
    low, high = found.intervals["ece"]
    assert (low + high) / 2 > found.ece > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 99}, "expected at least 100 draws, 1,000 for figures to show, got 99"),
        ({"level": 95.0}, r"expected a level between 0 and 1, such as 0\.95, got 95\.0"),
    ],
)
def test_what_gives_no_interval_is_refused(options: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        Bootstrap(**options)  # type: ignore[arg-type]
