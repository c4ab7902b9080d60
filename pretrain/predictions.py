"""What a classifier makes of each image."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.order import Integers

MOST = 5  # classes that are kept of an image


@dataclass(frozen=True)
class Predictions:
    """Of n images, a row each: what they are and what they were taken for.

    samples: their numbers within the split. labels: true classes. best: the classes of the five largest logits, the
    largest first, (n, 5), or of all of fewer. ranks: place of the true class among all, 1 where it is right; of equal
    logits those of lower classes come first. confidence: probability of the predicted class. probability: of the true
    one. nll: its negative logarithm, in nats. brier: squared distance between the probabilities of all classes and the
    truth, in [0, 2] (Brier 1950). Probabilities are the softmax of the logits, in double precision.
    """

    samples: NDArray[np.int64]
    labels: NDArray[np.int64]
    best: NDArray[np.int64]
    ranks: NDArray[np.int64]
    confidence: NDArray[np.float64]
    probability: NDArray[np.float64]
    nll: NDArray[np.float64]
    brier: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The class that each image was taken for."""
        return self.best[:, 0]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether it is the true one."""
        return self.ranks == 1

    def rows(self, chosen: NDArray[np.int64]) -> "Predictions":
        """Some of the images, by row."""
        return Predictions(*(getattr(self, field.name)[chosen] for field in fields(self)))


def predict(samples: Integers, logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> Predictions:
    """The predictions that logits, on the CPU, stand for."""
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1]) < labels[:, None]
    ranks = 1 + ((logits > own) | (logits == own) & earlier).sum(dim=1)
    best = logits.argsort(dim=1, descending=True, stable=True)[:, :MOST]
    logarithms = logits.double().log_softmax(dim=1)
    shares = logarithms.exp()
    nll = -logarithms.gather(1, labels[:, None])[:, 0]
    probability = (-nll).exp()
    columns = (
        best,
        ranks,
        shares.gather(1, best[:, :1])[:, 0],
        probability,
        nll,
        1 - 2 * probability + shares.square().sum(dim=1),
    )
    return Predictions(np.asarray(samples), labels.numpy(), *(column.numpy() for column in columns))


def join(pieces: Sequence[Predictions]) -> Predictions:
    """Predictions of one classifier one after another."""
    columns = (np.concatenate([getattr(piece, field.name) for piece in pieces]) for field in fields(Predictions))
    return Predictions(*columns)
