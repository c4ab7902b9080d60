"""Evaluation: fixed chunks in dataset order, so that results are bit-equal on any number of processes.

Chunk c goes to rank c mod R and is always the same b rows, the last one padded: whoever computes it, the numbers are
the same, and putting them together by chunk number gives them in dataset order.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_pipeline.augment import View
from data_pipeline.filling import PooledFilling
from data_pipeline.manifest import sample_starts
from data_pipeline.order import Integers, Located
from data_pipeline.rows import Part, rows_of


@dataclass(frozen=True)
class Chunk:
    """b rows, of which those that `valid` marks hold samples; the others are zeros with label -1.

    images: (b, height, width, channels), of the split's type. labels, samples: int64, (b,). valid: bool, (b,): False
    for padding and for samples that do not decode.
    """

    number: int
    images: Tensor
    labels: Tensor
    samples: Tensor
    valid: Tensor


def chunks(
    part: Part,
    view: View,
    size: int,
    *,
    samples: Integers | None = None,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Iterator[Chunk]:
    """This rank's chunks of `size` rows of a split, or of some of its samples, in order; without the withdrawn ones.

    Raises:
        DatasetError: as `RowFiller.fill`. OSError: a store or a disk that does not answer.
    """
    split = part.manifest.split(part.split)
    starts = sample_starts(split)
    chosen = split.members() if samples is None else samples

    def jobs() -> Iterator[tuple[np.ndarray, tuple[int, Integers]]]:
        for number in range(rank, -(-len(chosen) // size), world):
            members = chosen[number * size : (number + 1) * size]
            zeros = np.zeros_like(members)
            yield rows_of([starts], Located(zeros, members, zeros, zeros)), (number, members)

    filling = PooledFilling([part], view, 0, plan=None, world=world, rows=size, workers=workers, prefetch=2)
    try:
        for (number, members), (views,), labels, report in filling.batches(jobs()):
            valid = torch.zeros(size, dtype=torch.bool)
            valid[: len(members)] = True
            for substitution in report.substitutions:
                valid[: len(members)] &= torch.from_numpy(members != substitution.sample)
            padding = size - len(members)
            images = views[:, 0]  # (b, 1, h, w, c) -> (b, h, w, c)
            shown = torch.cat([images, images.new_zeros(padding, *images.shape[1:])])
            numbers = torch.from_numpy(np.pad(members, (0, padding), constant_values=-1))
            yield Chunk(
                number,
                shown.where(valid[:, None, None, None], 0),
                torch.cat([labels, labels.new_full((padding,), -1)]).where(valid, -1),
                numbers,
                valid,
            )
    finally:
        filling.close()
