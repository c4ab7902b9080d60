"""What a stream hands out: one rank's rows of a global batch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_pipeline.order import Integers
from data_pipeline.randomness import hash_array
from data_pipeline.rows import Substitution


@dataclass(frozen=True)
class Batch:
    """One rank's rows of a global batch, in the order of their run positions.

    views: for each group of views (b, copies, height, width, channels), of the split's type; a single view is one group
    of one copy. labels: int64, (b,), -1 where there is none. positions: run positions, int64, (b,). datasets, samples,
    epochs: which sample each row is; numbers within the split, before any substitution. Where a stream has fixed
    views, epochs are the numbers of these instead. substitutions: of these rows.
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    positions: Integers
    datasets: Integers
    samples: Integers
    epochs: Integers
    substitutions: tuple[Substitution, ...] = ()

    @property
    def substituted(self) -> Tensor:
        """Rows that show another sample, and its label, since their own does not decode: bool, (b,)."""
        found = np.zeros(len(self.samples), np.bool_)
        for dataset, sample, _, _ in self.substitutions:
            found |= (self.datasets == dataset) & (self.samples == sample)
        return torch.from_numpy(found)

    @property
    def shown(self) -> Integers:
        """Numbers of the samples whose pixels and labels the rows hold, after substitution: (b,)."""
        found = self.samples.copy()
        for dataset, sample, replacement, _ in self.substitutions:
            found[(self.datasets == dataset) & (self.samples == sample)] = replacement
        return found

    def view_keys(self) -> Integers:
        """A number for what each row shows, (b,): equal where dataset, sample and epoch, or fixed view, are."""
        views = np.asarray([self.datasets, self.epochs], np.uint64)
        seeds = hash_array(hash_array(0, views[0]), views[1])
        return (hash_array(seeds, self.samples.astype(np.uint64)) >> np.uint64(1)).astype(np.int64)

    @property
    def images(self) -> Tensor:
        """The view of each sample, where one is shown: (b, height, width, channels).

        Raises:
            ValueError: there are several.
        """
        copies = [view.shape[1] for view in self.views]
        if copies != [1]:
            raise ValueError(
                f"the batch has {' + '.join(map(str, copies))} views of every sample: take them from batch.views, one "
                "tensor (b, copies, height, width, channels) for each group; batch.images is for a single view"
            )
        return self.views[0][:, 0]
