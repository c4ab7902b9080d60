"""How much of their space features fill, which needs no labels. Shapes: n images, of d numbers each."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

ROWS = 4096
"""So many images at a time are in float64, so that memory does not grow with n."""
COLLAPSED = 0.01
"""A `feature_deviation` below this is called a collapse. Measured with the recipe `digits`: .11 before training; .018
at the least in the first epochs of runs that went on to learn, .65 at their end; .0066 at most in runs that a learning
rate 6 to 4000 times the recipe's had spoilt. With `cifar10-minutes` .46 at the least, trained or not.
"""
_EPSILON = 1e-7


def gram(features: Float[Tensor, "n d"], centre: Float[Tensor, " d"] | None = None) -> Float[Tensor, "d d"]:
    """Products of dimensions summed over images, in float64; a centre is first taken from each image."""
    width = features.shape[1]
    total = torch.zeros(width, width, dtype=torch.float64)
    for rows in features.split(ROWS):
        centred = rows.double() if centre is None else rows.double() - centre
        total.addmm_(centred.T, centred)
    return total


def rankme(features: Float[Tensor, "n d"]) -> float:
    """How many directions features use, from 1 to the smaller of n and d (Garrido et al. 2023, arXiv:2210.02885).

    Equations 1 and 2 there: exp of the entropy of the singular values, each divided by their sum, plus 1e-7. Features
    are not centred: a large mean that all have in common is one direction, which outweighs the others.
    """
    # Roots of the Gram matrix's eigenvalues are good to 1e-8 of the largest: as good as features in float32 are.
    eigenvalues = torch.linalg.eigvalsh(gram(features))
    singular = eigenvalues.clamp(min=0).sqrt()[-min(features.shape) :]
    shares = singular / singular.sum().clamp(min=torch.finfo(torch.float64).tiny) + _EPSILON
    return (-shares * shares.log()).sum().exp().item()


def feature_deviation(features: Float[Tensor, "n d"]) -> float:
    """0 where the features of all images point the same way, 1 where they are spread evenly over all directions.

    The standard deviation over images of l2-normalised features, its mean over dimensions, times the root of d: Chen &
    He 2021 (arXiv:2011.10566), section 4.1, measure it without the last factor.
    """
    deviations = functional.normalize(features, dim=1).std(dim=0, correction=0)
    return deviations.mean().item() * features.shape[1] ** 0.5
