"""RankMe and the deviation of features: by their formulas, at their ends, and in memory that does not grow."""

import math

import pytest
import torch

from pretrain.feature_spread import ROWS, feature_deviation, gram, rankme


def features(count: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator) * torch.logspace(-2, 1, width) + 0.5


@pytest.mark.parametrize(("count", "width"), [(300, 20), (20, 300), (5000, 8), (1, 4)])
def test_rankme_is_the_papers_formula_on_singular_values(count: int, width: int):
    values = features(count, width)
    singular = torch.linalg.svdvals(values.double())
    shares = singular / singular.sum() + 1e-7
    expected = math.exp(-sum(share * math.log(share) for share in shares.tolist()))
    assert rankme(values) == pytest.approx(expected, rel=1e-4)


def test_rankme_counts_equal_directions_and_finds_one_where_all_are_alike():
    assert rankme(torch.eye(12) * 7) == pytest.approx(12, rel=1e-4)
    assert rankme(torch.eye(12)[:, :5]) == pytest.approx(5, rel=1e-4)
    same = torch.arange(1.0, 33.0).expand(100, 32)
    assert rankme(same) == pytest.approx(1, abs=1e-3)
    assert rankme(torch.zeros(10, 6)) == pytest.approx(1, abs=1e-3)


def test_deviation_is_one_where_directions_are_spread_evenly_and_never_more():
    evenly = torch.cat((torch.eye(16), -torch.eye(16)))
    assert feature_deviation(evenly) == pytest.approx(1)
    assert feature_deviation(evenly * torch.arange(1.0, 33.0)[:, None]) == pytest.approx(1)  # lengths do not count
    random = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    assert 0.99 < feature_deviation(random) <= 1


def test_deviation_is_zero_where_all_images_are_alike():
    same = torch.arange(1.0, 33.0).expand(100, 32)
    assert feature_deviation(same) < 1e-6
    assert feature_deviation(same * torch.arange(1.0, 101.0)[:, None]) < 1e-6
    assert feature_deviation(torch.zeros(10, 6)) == 0


def test_deviation_by_hand():
    # Unit vectors (1, 0) and (0, 1): each dimension is 0 or 1, with a deviation of a half.
    assert feature_deviation(torch.tensor([[3.0, 0.0], [0.0, 5.0]])) == pytest.approx(0.5 * math.sqrt(2))


def test_a_gram_matrix_of_more_rows_than_are_taken_at_once():
    values = features(2 * ROWS + 77, 6)
    torch.testing.assert_close(gram(values), values.double().T @ values.double())
    centre = values.double().mean(dim=0)
    torch.testing.assert_close(gram(values, centre), (values.double() - centre).T @ (values.double() - centre))
