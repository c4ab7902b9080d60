"""Random numbers as functions of keys.

Nothing here has state and nothing depends on a library's generator, whose streams may change between versions (NumPy
says so of `Generator`, NEP 19). A number is a hash of what it is for, so any process can compute any of them, in any
order, and a resumed run needs no generator state.
"""

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import xxhash
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_CHUNK = 1 << 20


class Purpose(IntEnum):
    """What a number is drawn for: keys that differ only in purpose give independent numbers. Never renumber."""

    BLOCKS = 1
    BLOCK_SAMPLES = 2
    PIXELS = 3
    MASK = 4
    SHARD_SHUFFLE = 5
    INITIALISATION = 6
    FIGURE_MASK = 7
    DROP_PATH = 8
    MIXING = 9
    ERASING = 10
    SUBSET = 11
    HEAD = 12
    HOLD_OUT = 13
    BALANCE = 14


def key(*words: int) -> int:
    """A 64-bit key from integers, each taken modulo 2^64 (XXH3, whose output is fixed since version 0.8)."""
    return xxhash.xxh3_64_intdigest(struct.pack(f"<{len(words)}Q", *(word & 0xFFFFFFFFFFFFFFFF for word in words)))


def hash_array(seed: int | NDArray[np.uint64], counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash counters to 64-bit numbers (splitmix64: Steele, Lea and Flood 2014); shapes broadcast."""
    with np.errstate(over="ignore"):
        state = np.asarray(counters, np.uint64) + np.uint64(1)
        state = state * _GAMMA + np.asarray(seed, np.uint64)
        state ^= state >> np.uint64(30)
        state *= np.uint64(0xBF58476D1CE4E5B9)
        state ^= state >> np.uint64(27)
        state *= np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


def permutation(seed: int, count: int) -> NDArray[np.int64]:
    """A uniform permutation of `range(count)`.

    Each number carries its index in the low bits, so that equal hashes cannot make the order depend on the sorting
    algorithm, and values are sorted in place: 14 million in about half a second.
    """
    index_bits = np.uint64(max(count - 1, 0).bit_length())
    numbers = np.empty(count, np.uint64)
    for start in range(0, count, _CHUNK):  # chunks stay in the processor's cache
        index = np.arange(start, min(start + _CHUNK, count), dtype=np.uint64)
        numbers[start : start + len(index)] = (hash_array(seed, index) >> index_bits << index_bits) | index
    numbers.sort()
    numbers &= (np.uint64(1) << index_bits) - np.uint64(1)
    return numbers.view(np.int64)


def uniform_array(seeds: NDArray[np.uint64], count: int) -> NDArray[np.float32]:
    """For each of b seeds `count` numbers in [0, 1): shape (b, count)."""
    bits = hash_array(seeds[:, None], np.arange(count, dtype=np.uint64)[None, :])
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


class Draws:
    """Numbers drawn one after another for one key."""

    __slots__ = ("_count", "_key")

    def __init__(self, *words: int) -> None:
        self._key = key(*words)
        self._count = 0

    def _bits(self) -> int:
        self._count += 1
        return xxhash.xxh3_64_intdigest(self._count.to_bytes(8, "little"), self._key)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * (self._bits() >> 11) * 2.0**-53

    def integer(self, count: int) -> int:
        """An integer in [0, count)."""
        return self._bits() * count >> 64

    def beta(self, alpha: float) -> float:
        """A number from Beta(alpha, alpha), in (0, 1), by two powers of uniform numbers that sum to at most 1 (Jöhnk
        1964); meant for an alpha of a few at most, where few pairs are refused.
        """
        while True:
            one, other = self.uniform() ** (1 / alpha), self.uniform() ** (1 / alpha)
            if 0 < one + other <= 1:
                return one / (one + other)

    def seed(self) -> int:
        """A seed for another generator, in [0, 2^63)."""
        return self._bits() >> 1


@contextmanager
def seeded_libraries(seed: int) -> Iterator[None]:
    """Python's and NumPy's global generators start from `seed` inside, and outside go on as if nothing had been drawn.

    For augmentations of libraries that draw from them.
    """
    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
