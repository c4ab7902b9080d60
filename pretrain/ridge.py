"""A linear classifier that needs no training loop: ridge regression on one-hot targets.

Shapes: n images of d numbers each, k classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretrain.feature_spread import ROWS, gram

STRENGTHS = tuple(10.0**power for power in range(-6, 4))
"""Penalties of squared weights, for each image that is learnt from: scikit-learn's alpha divided by n."""
_LEFT_OUT = 2048


class RidgeClassifier(NamedTuple):
    """The class with the largest of `features @ weights + bias`; in float64. `strength` is the one chosen."""

    weights: Float[Tensor, "d k"]
    bias: Float[Tensor, " k"]
    strength: float

    def predict(self, features: Float[Tensor, "q d"]) -> Int[Tensor, " q"]:
        """The class of each image."""
        return torch.cat([(rows.double() @ self.weights + self.bias).argmax(dim=1) for rows in features.split(ROWS)])


class _Spectrum(NamedTuple):
    """What a ridge of any strength is made of: the eigenvectors of the features' correlations, and what else it needs.

    mean, scale: (d,), of features; dividing by `scale` standardises them. eigenvalues: (d,). vectors: (d, d), a column
    each. moments: (d, k), of the eigenvectors' coordinates with the targets. shares: (k,), of the images by class.
    """

    mean: Tensor
    scale: Tensor
    eigenvalues: Tensor
    vectors: Tensor
    moments: Tensor
    shares: Tensor


def fit_ridge(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], strengths: Sequence[float] = STRENGTHS
) -> RidgeClassifier:
    """The classifier learnt from finite features, at least two, and their labels, 0 and up; no randomness.

    Features are standardised and the bias is not penalised. Of the strengths it takes that, of equals the first, with
    the least squared error on images left out, exactly as if for each of the first 2,048 the regression had been fitted
    to all others: one eigendecomposition gives it for all strengths. It is not the logistic regression of
    `finetune/probe.py`: with the best of its strengths that was a point (CIFAR-10) or two (digits) of top-1 better.
    """
    assert len(features) >= 2
    assert int(labels.min()) >= 0
    found = _decompose(features, labels)
    errors = _left_out_errors(found, features[:_LEFT_OUT], labels[:_LEFT_OUT], len(features), strengths)
    strength = strengths[int(torch.stack(errors).argmin())]
    weights = found.vectors @ (found.moments / (found.eigenvalues + strength)[:, None]) / found.scale[:, None]
    return RidgeClassifier(weights, found.shares - found.mean @ weights, strength)


def _decompose(features: Tensor, labels: Tensor) -> _Spectrum:
    count, width = features.shape
    counts = torch.bincount(labels).double()
    sums = torch.zeros(len(counts), width, dtype=torch.float64)  # by class
    for rows, classes in zip(features.split(ROWS), labels.split(ROWS), strict=True):
        sums.index_add_(0, classes, rows.double())
    mean = sums.sum(dim=0) / count
    covariance = gram(features, mean) / count
    deviation = covariance.diagonal().sqrt()
    # What differs only by the rounding of float32 must not be blown up to a deviation of 1: it gets no weight.
    is_constant = deviation <= torch.finfo(torch.float32).eps * mean.abs()
    scale = torch.where(is_constant, torch.inf, deviation)
    eigenvalues, vectors = torch.linalg.eigh(covariance / scale / scale[:, None])
    moments = vectors.T @ ((sums - counts[:, None] * mean) / scale / count).T  # (d, d) x (d, k)
    return _Spectrum(mean, scale, eigenvalues.clamp(min=0), vectors, moments, counts / count)


def _left_out_errors(
    found: _Spectrum, features: Tensor, labels: Tensor, count: int, strengths: Sequence[float]
) -> list[Tensor]:
    """Mean squared error over images, summed over classes, each predicted by a fit to the `count` - 1 others.

    An image's residual when it is left out is its residual divided by 1 - its leverage. The square of a residual, of
    target - fitted, is taken apart so that nothing here has more than d columns, however many the classes are.
    """
    points = (features.double() - found.mean) / found.scale @ found.vectors  # (m, d): coordinates by eigenvector
    squares = 1 - 2 * found.shares[labels] + found.shares.square().sum()  # |target - mean target|^2
    towards = found.moments[:, labels].T - found.moments @ found.shares  # (m, d): moments @ (target - mean target)
    many = found.moments.shape[1] > found.moments.shape[0]
    factor = torch.linalg.qr(found.moments.T, mode="r").R.T if many else found.moments  # (d, <= d), of the same lengths
    errors = []
    for strength in strengths:
        shrunk = points / (found.eigenvalues + strength)
        residuals = squares - 2 * (shrunk * towards).sum(dim=1) + (shrunk @ factor).square().sum(dim=1)
        leverage = (1 + (points * shrunk).sum(dim=1)) / count
        errors.append((residuals / (1 - leverage).square()).mean())
    return errors
