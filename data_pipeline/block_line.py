"""An epoch's blocks, permuted and laid end to end, of which only the stretches that are looked at are ever sorted.

The permutation sorts blocks by a hash. Blocks whose hashes begin with the same bits are a bin: one pass over the blocks
gives the samples of every bin, hence where each begins on the line; another collects and sorts the blocks of the bins
that hold the stretch in question. Neither keeps anything for each block.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_pipeline.block_cuts import Cuts, Integers
from data_pipeline.randomness import hash_array

_CHUNK = 1 << 14  # blocks at a time: what is computed of them stays in the processor's cache, and in the heap
_BLOCKS_A_BIN = 16
_MOST_BITS = 20


class Stretch(NamedTuple):
    """Blocks of some parts of the line, in order, and where on the line each of them ends: arrays of one shape (n,)."""

    blocks: Integers
    ends: Integers


class Line:
    """The blocks of `cuts` in the order of `randomness.permutation(seed, cuts.count)`, end to end."""

    def __init__(self, cuts: Cuts, seed: int) -> None:
        self._cuts, self._seed = cuts, seed
        self._index_bits = np.uint64(max(cuts.count - 1, 0).bit_length())
        bits = min(max(cuts.count // _BLOCKS_A_BIN, 2).bit_length() - 1, _MOST_BITS)
        self._shift = np.uint64(64 - bits)
        self._samples = np.zeros(1 << bits, np.int64)  # of each bin
        for first, last in self._chunks():
            np.add.at(self._samples, self._bins(self._numbers(first, last)), np.diff(cuts.bounds(first, last)))
        self._ends = np.cumsum(self._samples)

    def stretch(self, starts: Integers, stops: Integers) -> Stretch:
        """The blocks of at least the parts of the line from each of `starts` to the same one of `stops`."""
        wanted = self._wanted(starts[starts < stops], stops[starts < stops])
        chosen = [np.empty(0, np.uint64)]
        for first, last in self._chunks():
            numbers = self._numbers(first, last)
            chosen.append(numbers[wanted[self._bins(numbers)]])
        numbers = np.concatenate(chosen)
        blocks = (numbers & ((np.uint64(1) << self._index_bits) - np.uint64(1))).view(np.int64)
        sizes = self._cuts.starts(blocks + 1) - self._cuts.starts(blocks)  # quick while they are in their own order
        order = np.argsort(numbers)
        ends = np.cumsum(sizes[order])
        ends += np.cumsum(np.where(wanted, 0, self._samples))[self._bins(numbers[order])]  # what lies between
        return Stretch(blocks[order], ends)

    def _chunks(self) -> Iterator[tuple[int, int]]:
        count = self._cuts.count
        return ((first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK))

    def _wanted(self, starts: Integers, stops: Integers) -> np.ndarray:
        """Which bins hold any of the positions."""
        changes = np.zeros(len(self._ends) + 1, np.int64)
        np.add.at(changes, np.searchsorted(self._ends, starts, side="right"), 1)
        np.add.at(changes, np.searchsorted(self._ends, stops - 1, side="right") + 1, -1)
        return np.cumsum(changes[:-1]) > 0

    def _numbers(self, first: int, last: int) -> np.ndarray:
        """What blocks are sorted by: their hashes, with their own numbers in the low bits."""
        index = np.arange(first, last, dtype=np.uint64)
        return (hash_array(self._seed, index) >> self._index_bits << self._index_bits) | index

    def _bins(self, numbers: np.ndarray) -> Integers:
        return (numbers >> self._shift).view(np.int64)
