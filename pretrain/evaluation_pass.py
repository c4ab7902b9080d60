"""One pass over the images of a split, each once, with results that are the same bits on any number of processes."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from data_pipeline.augment import View
from data_pipeline.chunks import Chunk, chunks
from data_pipeline.order import Integers
from data_pipeline.rows import Part
from pretrain.world import World

Piece = TypeVar("Piece")


def each_once(
    result_of: Callable[[Chunk, Tensor], Piece],
    part: Part,
    view: View,
    world: World,
    *,
    samples: Integers,
    workers: int,
    chunk: int,
) -> list[Piece]:
    """What a function makes of each chunk of so many rows, in the order of the samples, on every process.

    It is given the chunk, and its images on the world's device. Which rows are together never depends on the number of
    processes. Every process must call this.
    """
    own = [
        (piece.number, result_of(piece, piece.images.to(world.device)))
        for piece in chunks(part, view, chunk, samples=samples, rank=world.rank, world=world.size, workers=workers)
    ]
    return [result for _, result in sorted(world.gather(own), key=lambda one: one[0])]
