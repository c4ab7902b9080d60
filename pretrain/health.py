"""Whether features are becoming good, which the loss does not say: k-NN on held-out images."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_pipeline.augment import View
from data_pipeline.chunks import chunks
from data_pipeline.order import Integers
from data_pipeline.rows import Part
from pretrain.nearest import nearest, vote
from pretrain.world import World


def extract(
    features: Callable[[Tensor], Tensor],
    part: Part,
    view: View,
    world: World,
    *,
    samples: Integers,
    workers: int,
    chunk: int = 256,
) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
    """Features and labels of samples of a split, in their order, on every process; fp32, in memory.

    `features` maps uint8 images (b, h, w, c) on the device to (b, d). Which rows are computed together never depends
    on the number of processes, so the result is bit-equal on any. Samples that do not decode are left out.
    """
    own = []
    for piece in chunks(part, view, chunk, samples=samples, rank=world.rank, world=world.size, workers=workers):
        values = features(piece.images.to(world.device)).float().cpu()
        own.append((piece.number, values[piece.valid], piece.labels[piece.valid]))
    whole = sorted(world.gather(own), key=lambda piece: piece[0])
    return torch.cat([values for _, values, _ in whole]), torch.cat([labels for *_, labels in whole])


def knn_predict(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    queries: Float[Tensor, "q d"],
    *,
    neighbours: int,
    temperature: float,
) -> Int[Tensor, " q"]:
    """The class with the most votes among the k nearest by cosine similarity, on the CPU.

    A neighbour's vote weighs exp(similarity / temperature) (Wu et al. 2018, arXiv:1805.01978, section 3.4). Fewer
    training images than k all vote.
    """
    found = nearest(train, queries, neighbours)
    count = found.number.shape[1]
    return vote(found.similarity, train_labels.cpu()[found.number], [count], temperature=temperature)[count]
