"""The nearest of many features by angle, found exactly in pieces, and how their classes vote.

Similarities come out the same to the bit whatever the pieces, the threads, the library or the device. Coordinates of
unit vectors are rounded to multiples of 2^-26, finer than single precision has them near 1, so that every sum of their
products is a whole number below 2^53, which double precision adds without rounding in any order. A similarity, rounded
to a multiple of 2^-32, and the number of its feature are then one integer: sorting is that of integers without ties.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int32, Int64
from torch import Tensor

_COORDINATE_BITS = 26
_SIMILARITY_BITS = 32
_NUMBER_BITS = 30
_LAST = (1 << _NUMBER_BITS) - 1
_UNIT = 2.0 ** (2 * _COORDINATE_BITS - _SIMILARITY_BITS)  # a similarity's last bit, in units of the products
_ROWS = 4096
_VOTING_ROWS = 1024


class Neighbours(NamedTuple):
    """Of q queries the k nearest features, the nearest first: cosines of the angles, and which they are."""

    similarity: Float64[Tensor, "q k"]
    number: Int64[Tensor, "q k"]


def nearest(
    train: Float[Tensor, "n d"],
    queries: Float[Tensor, "q d"],
    count: int,
    *,
    device: torch.device | None = None,
    rows: tuple[int, int] = (8192, 1024),
) -> Neighbours:
    """The `count` features nearest to each query by cosine similarity, all where there are fewer; on the CPU.

    Equally near ones are sorted by their number. Memory on `device`, by default that of `train`, is a piece of `rows`
    (features, queries) and what was found so far: never a row for each feature.
    """
    count = min(count, len(train))
    device = train.device if device is None else device
    assert len(train) <= 1 << _NUMBER_BITS
    corpus, asked = _rounded(train), _rounded(queries)
    found = torch.full((len(queries), count), torch.iinfo(torch.int64).min, device=device)
    for start in range(0, len(train), rows[0]):
        piece = corpus[start : start + rows[0]].to(device).double()
        for some, best in zip(asked.split(rows[1]), found.split(rows[1]), strict=True):
            products = some.to(device).double() @ piece.T  # (q, d) x (d, n) -> (q, n): whole numbers below 2^53
            both = torch.cat([best, _largest(products, start, count)], dim=1)
            best.copy_(both.topk(count, dim=1).values)
    found = found.cpu()
    similarity = (found >> _NUMBER_BITS).double() / (1 << _SIMILARITY_BITS)
    return Neighbours(similarity, _LAST - (found & _LAST))


def vote(
    similarity: Float64[Tensor, "q k"],
    labels: Int64[Tensor, "q k"],
    counts: Sequence[int],
    *,
    temperature: float,
) -> dict[int, Int64[Tensor, " q"]]:
    """For each of `counts`, at most k, the class with the most votes of so many nearest; of equal ones the lowest.

    A vote weighs exp(similarity / temperature) (Wu et al. 2018, arXiv:1805.01978, section 3.4).
    """
    classes = int(labels.max()) + 1
    weights = ((similarity - similarity[:, :1]) / temperature).exp()  # relative to the nearest: no overflow
    predictions: dict[int, list[Tensor]] = {count: [] for count in counts}
    for weight, label in zip(weights.split(_VOTING_ROWS), labels.split(_VOTING_ROWS), strict=True):
        votes = torch.zeros(len(weight), classes, dtype=torch.float64)
        # One neighbour after another, so that the order of the sums is that of the neighbours.
        for place in range(max(counts)):
            votes.scatter_add_(1, label[:, place : place + 1], weight[:, place : place + 1])
            if place + 1 in predictions:
                predictions[place + 1].append(votes.argmax(dim=1))
    return {count: torch.cat(parts) for count, parts in predictions.items()}


def _largest(products: Float64[Tensor, "q n"], start: int, count: int) -> Int64[Tensor, "q k"]:
    """The `count` largest of each row as integers; the first column is feature number `start`."""
    top = products.topk(min(count, products.shape[1]), dim=1)
    found = _numbered(top.values, start + top.indices)
    # Which of equal ones topk takes is nowhere promised: rows where one was left out are sorted as integers.
    least = ((top.values[:, -1:] / _UNIT).round() - 0.5) * _UNIT
    doubtful = (products >= least).sum(dim=1) > top.values.shape[1]
    if doubtful.any():
        numbers = torch.arange(start, start + products.shape[1], device=products.device)
        found[doubtful] = _numbered(products[doubtful], numbers).topk(found.shape[1], dim=1).values
    return found


def _numbered(products: Float64[Tensor, "q n"], numbers: Tensor) -> Int64[Tensor, "q n"]:
    """Similarity and number as one integer each: of two equal similarities the lower number makes the larger one."""
    return (products / _UNIT).round_().long().mul_(1 << _NUMBER_BITS).add_(_LAST - numbers)


def _rounded(features: Float[Tensor, "n d"]) -> Int32[Tensor, "n d"]:
    """Unit vectors in units of 2^-26; a feature of length 0 stays 0."""
    # In pieces that no caller chooses: how a library sums a row may depend on how many there are.
    parts = []
    for some in features.split(_ROWS):
        exact = some.double()
        lengths = exact.norm(dim=1, keepdim=True)
        unit = exact / torch.where(lengths > 0, lengths, 1.0)
        parts.append(unit.mul_(1 << _COORDINATE_BITS).round_().int())
    return torch.cat(parts)
