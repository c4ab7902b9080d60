"""The nearest are those of exact integer arithmetic, whatever the pieces; votes are counted for several k at once."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.nearest import nearest, vote

PIECES = [(2, 9), (7, 3), (64, 1000), (1000, 5)]


def normal(seed: int, rows: int, width: int = 12) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def exactly(train: Tensor, queries: Tensor, count: int) -> np.ndarray:
    """Numbers of the nearest by Python's integers: sorted by rounded similarity, then by number."""

    def whole(features: Tensor) -> list[list[int]]:
        unit = features.double() / features.double().norm(dim=1, keepdim=True)
        return [[round(value * 2**26) for value in row] for row in unit.tolist()]

    corpus, found = whole(train), []
    for query in whole(queries):
        products = [sum(a * b for a, b in zip(query, row, strict=True)) for row in corpus]
        order = sorted(range(len(corpus)), key=lambda number: (-round(products[number] / 2**20), number))
        found.append(order[:count])
    return np.array(found)


def tied(seed: int) -> tuple[Tensor, Tensor]:
    """Features among which many are the same, or the same but for their length, which does not count."""
    some = normal(seed, 9)
    return torch.cat([some, normal(seed + 1, 11), some.flip(0) * 4, some * 0.5, some[:4]]), torch.cat([some[2:6], some])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [1, 3, 10, 42])
def test_they_are_those_of_exact_arithmetic_ties_by_number(seed: int, count: int):
    for train, queries in (tied(seed), (normal(seed, 60), normal(seed + 50, 10))):
        found = nearest(train, queries, count)
        assert np.array_equal(found.number.numpy(), exactly(train, queries, count))
        assert (found.similarity.diff(dim=1) <= 0).all()
        cosine = torch.nn.functional.cosine_similarity(queries.double()[:, None], train.double()[found.number], dim=2)
        torch.testing.assert_close(found.similarity, cosine, rtol=0, atol=3e-8)


@pytest.mark.parametrize("rows", PIECES)
def test_pieces_change_no_bit(rows: tuple[int, int]):
    collapsed = torch.ones(50, 12)  # all alike: every feature is as near as any other
    for train, queries in (tied(0), (normal(1, 90), normal(2, 20)), (collapsed, normal(3, 4)), (collapsed, collapsed)):
        for count in (1, 6, 20):
            expected, found = nearest(train, queries, count), nearest(train, queries, count, rows=rows)
            assert torch.equal(found.number, expected.number)
            assert torch.equal(found.similarity, expected.similarity)
    assert nearest(collapsed, collapsed, 6, rows=rows).number.tolist() == [list(range(6))] * 50


def test_all_where_there_are_fewer_and_features_of_length_zero():
    train = torch.tensor([[0.0, 0.0], [3.0, 0.0], [-1.0, 0.0]])
    found = nearest(train, torch.tensor([[2.0, 0.0], [0.0, 0.0]]), 20)
    assert found.number.tolist() == [[1, 0, 2], [0, 1, 2]]
    assert found.similarity.tolist() == [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]


class Largest(TorchDispatchMode):
    """Notes the most values of any tensor that an operation gives."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = out if isinstance(out, tuple | list) else [out]
        self.values = max([self.values, *(tensor.numel() for tensor in given if isinstance(tensor, Tensor))])
        return out


def test_memory_does_not_grow_with_features_times_queries():
    train, queries = normal(0, 3000, 4), normal(1, 500, 4)
    with Largest() as largest:
        nearest(train, queries, 5, rows=(100, 50))
    assert largest.values == len(train) * 4


def test_votes_by_hand():
    similarity = torch.tensor([[0.9, 0.8, 0.8, 0.1]], dtype=torch.float64)
    labels = torch.tensor([[2, 0, 0, 1]])
    one, two = math.exp(0.9 / 0.2), 2 * math.exp(0.8 / 0.2)
    assert one < two
    assert {count: found.tolist() for count, found in vote(similarity, labels, [1, 2, 3], temperature=0.2).items()} == {
        1: [2],
        2: [2],
        3: [0],
    }
    # So cold that only the nearest counts, without an overflow or a vote of 0 for all.
    assert vote(similarity, labels, [4], temperature=1e-4)[4].tolist() == [2]
    even = torch.ones(1, 4, dtype=torch.float64)
    assert vote(even, torch.tensor([[3, 1, 3, 1]]), [4], temperature=0.07)[4].tolist() == [1]


def test_several_counts_at_once_are_what_each_gives_alone():
    found = nearest(normal(0, 300), normal(1, 1500), 50)
    labels = (torch.arange(300) % 7)[found.number]
    together = vote(found.similarity, labels, [1, 5, 50], temperature=0.07)
    for count, classes in together.items():
        alone = vote(found.similarity[:, :count], labels[:, :count], [count], temperature=0.07)
        assert torch.equal(classes, alone[count])
