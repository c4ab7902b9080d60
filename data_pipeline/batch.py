"""What a stream hands out: one rank's rows of a global batch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_pipeline.order import Integers
from data_pipeline.rows import Substitution


@dataclass(frozen=True)
class Batch:
    """One rank's rows of a global batch, in the order of their run positions.

    views: for each group of views (b, copies, height, width, channels), of the split's type; a single view is one group
    of one copy. labels: int64, (b,), -1 where there is none. positions: run positions, int64, (b,). datasets, samples,
    epochs: which sample each row is; numbers within the split, before any substitution. substitutions: of these rows.
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
