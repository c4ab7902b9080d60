"""Where shards are cut into blocks: a function of the shards' samples and bytes, evaluated where it is asked for.

A shard of s bytes is cut into ceil(s / target) blocks whose sample counts differ by at most one, where target is the
smaller of a limit and a quarter of a lane's bytes. The number of ranks has no part in it. Memory is O(shards): a
billion samples have fourteen million blocks, and a run looks at few of them at a time.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class Cuts:
    """The blocks of a split, `count` of them, numbered in the order of its `samples`.

    Args:
        shard_samples, shard_bytes: of each shard, in manifest order.
        lanes: that share the split's bytes.
        block_bytes: most bytes a block spans.
        renumber: the number of samples that count among those before each of some; all of them, by default.
        total: bytes of the split, where it is not that of these shards.
    """

    def __init__(
        self,
        shard_samples: Integers,
        shard_bytes: Integers,
        lanes: int,
        block_bytes: int,
        renumber: Callable[[Integers], Integers] | None = None,
        *,
        total: int | None = None,
    ) -> None:
        total = int(shard_bytes.sum()) if total is None else total
        by_limit = -(-shard_bytes // block_bytes)
        by_lane = -(-shard_bytes * 4 * lanes // max(total, 1))
        blocks = np.minimum(np.maximum(by_limit, by_lane), shard_samples)
        cut = blocks > 0
        self._samples, self._blocks = shard_samples[cut], blocks[cut]
        self._first_sample = (np.cumsum(shard_samples) - shard_samples)[cut]
        self._first_block = np.append(np.cumsum(self._blocks) - self._blocks, self._blocks.sum())
        self._end = shard_samples.sum()
        self._renumber = renumber or (lambda numbers: numbers)
        self.count = int(self._first_block[-1])
        self.samples = int(self._renumber(self._end))

    def starts(self, blocks: Integers) -> Integers:
        """First sample number of each of these blocks, in any order; that of block `count` is the number of samples."""
        shards = np.searchsorted(self._first_block, blocks, side="right") - 1
        inside = np.minimum(shards, len(self._blocks) - 1)
        return self._renumber(np.where(blocks == self.count, self._end, _start(blocks, *self._of(inside))))

    def bounds(self, first: int, last: int) -> Integers:
        """First sample numbers of the blocks from `first` to `last`, both included: quicker than `starts`."""
        stop = min(last + 1, self.count)
        first_shard, last_shard = np.searchsorted(self._first_block, (first, stop - 1), side="right") - 1
        shards = slice(first_shard, last_shard + 1)
        ends = np.minimum(self._first_block[1:][shards], stop)
        counts = ends - np.maximum(self._first_block[:-1][shards], first)
        found = _start(
            np.arange(first, stop, dtype=np.int64), *(np.repeat(values, counts) for values in self._of(shards))
        )
        return self._renumber(np.append(found, self._end) if last == self.count else found)

    def _of(self, shards: slice | Integers) -> tuple[Integers, Integers, Integers, Integers]:
        return self._first_sample[shards], self._first_block[:-1][shards], self._samples[shards], self._blocks[shards]


def _start(
    block: Integers, first_sample: Integers, first_block: Integers, shard_samples: Integers, shard_blocks: Integers
) -> Integers:
    within = block - first_block
    within *= shard_samples
    within //= shard_blocks
    within += first_sample
    return within
