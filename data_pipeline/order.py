"""The order of samples: (fingerprint, plan, seed, t) -> sample; pure functions.

A shard is cut into blocks, contiguous ranges of samples read together. Each epoch permutes the blocks, lays them end
to end and cuts this line of N samples into L equal lanes. Position t of the epoch is lane t mod L, offset t div L;
inside a lane the samples of a block are permuted. So every batch mixes all lanes, every lane reads one block at a time,
and a rank that takes the positions congruent to r mod R reads only its own lanes where R divides L.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.randomness import Purpose, key, permutation

ORDER_VERSION = 1
SMALL_WORLD_LANES = 240
LARGE_WORLD_LANES = 7_680
BLOCK_BYTES = 8_000_000

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """What, besides data and seed, decides the order. Recorded in the state; a resumed run must have the same.

    `lanes`: L, a multiple of every number of ranks that should read each byte once. `block_bytes`: most bytes a block
    spans. `views`: how often in an epoch a sample is shown (repeated augmentation). `weights`: rows of L positions each
    dataset gets in a period, one weight a dataset. `subset`: name of the rule that chose the samples ("" for all).
    """

    lanes: int = SMALL_WORLD_LANES
    block_bytes: int = BLOCK_BYTES
    views: int = 1
    weights: tuple[int, ...] = (1,)
    subset: str = ""
    version: int = ORDER_VERSION

    def __post_init__(self) -> None:
        for name in ("lanes", "block_bytes", "views"):
            if getattr(self, name) < 1:
                raise ValueError(f"plan: {name} is {getattr(self, name)}, expected at least 1")
        if not self.weights or min(self.weights) < 1:
            raise ValueError(f"plan: weights are {self.weights}, expected integers of at least 1, one a dataset")
        if self.version != ORDER_VERSION:
            raise ValueError(
                f"plan: order version {self.version}, this sherd draws version {ORDER_VERSION}: "
                "go on with the version of sherd that began the run"
            )


def lanes_for(most_ranks: int) -> int:
    """L for runs of up to this many ranks: 240 (every world size up to 6, and 8, 10, 12, 15, 16) or 7,680."""
    if most_ranks > 512:
        raise ValueError(f"--max-world {most_ranks}: expected at most 512")
    return SMALL_WORLD_LANES if most_ranks <= 16 else LARGE_WORLD_LANES


class Located(NamedTuple):
    """Where each of n positions lies: arrays of shape (n,)."""

    dataset: Integers
    sample: Integers
    epoch: Integers
    view: Integers


class _Epoch(NamedTuple):
    blocks: Integers  # block numbers in the order of this epoch
    ends: Integers  # where on the line each of them ends


class Order:
    """The order of one split.

    Args:
        shard_samples, shard_bytes: of each shard, in manifest order.
        fingerprint: of the split, hex; part of every key.
        plan: lanes, block size and views (weights are for `Mixture`).
        seed: of the run.
        members: sorted numbers of the samples that take part; None for all.
        withdrawn: sorted numbers of samples that take no part in any case; memory grows with these alone.
    """

    def __init__(
        self,
        shard_samples: Sequence[int] | Integers,
        shard_bytes: Sequence[int] | Integers,
        *,
        fingerprint: str,
        plan: Plan,
        seed: int,
        members: Integers | None = None,
        withdrawn: Sequence[int] = (),
    ) -> None:
        self._plan = plan
        self._key = key(seed, int(fingerprint[:16], 16))
        left_out = np.asarray(withdrawn, np.int64)
        bounds = block_bounds(np.asarray(shard_samples, np.int64), np.asarray(shard_bytes, np.int64), plan)
        if members is not None:
            if len(members) and not (np.all(np.diff(members) > 0) and members[0] >= 0 and members[-1] < bounds[-1]):
                raise ValueError(f"subset: expected increasing sample numbers from 0 to {bounds[-1] - 1}")
            members = np.setdiff1d(members, left_out, assume_unique=True)
            bounds = np.searchsorted(members, bounds)
        else:
            bounds = bounds - np.searchsorted(left_out, bounds)
        self._members = members
        # The number of a sample among those that take part, and that of it among all, differ by the withdrawn before.
        self._left_out = left_out - np.arange(len(left_out))
        self._bounds = bounds
        self.samples = int(bounds[-1])
        if self.samples == 0:
            raise ValueError("the split (or the subset of it) holds no samples")
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._pieces: OrderedDict[tuple[int, int], NDArray[np.int32]] = OrderedDict()

    @property
    def epoch_positions(self) -> int:
        """Positions in an epoch: N samples times m views."""
        return self.samples * self._plan.views

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self._bounds) - 1

    def locate(self, positions: Integers) -> Located:
        """Sample, epoch and view at each run position; positions may be any, in any order."""
        epochs, within = np.divmod(positions, self.epoch_positions)
        lane, offset, view = self._lane_offset_view(within)
        samples = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = np.flatnonzero(epochs == epoch)
            samples[chosen] = self._samples(int(epoch), lane[chosen], offset[chosen])
        return Located(np.zeros_like(positions), samples, epochs, view)

    def _lane_offset_view(self, within: Integers) -> tuple[Integers, Integers, Integers]:
        lanes, views = self._plan.lanes, self._plan.views
        rows, rest = divmod(self.samples, lanes)
        full = rows * lanes * views
        row, lane = np.divmod(within, lanes)
        # The last row has only `rest` lanes: its views follow each other after `rest` positions instead of L.
        last_view, last_lane = np.divmod(within - full, max(rest, 1))
        is_last = within >= full
        return (
            np.where(is_last, last_lane, lane),
            np.where(is_last, rows, row // views),
            np.where(is_last, last_view, row % views),
        )

    def _samples(self, epoch: int, lane: Integers, offset: Integers) -> Integers:
        table = self._epoch(epoch)
        rows, rest = divmod(self.samples, self._plan.lanes)
        lane_start = lane * rows + np.minimum(lane, rest)
        lane_end = lane_start + rows + (lane < rest)
        line = lane_start + offset
        place = np.searchsorted(table.ends, line, side="right")
        block = table.blocks[place]
        block_start = table.ends[place] - (self._bounds[block + 1] - self._bounds[block])
        piece_start = np.maximum(block_start, lane_start)
        piece_end = np.minimum(table.ends[place], lane_end)
        chosen = self._bounds[block] + (piece_start - block_start)
        by_piece = np.argsort(piece_start, kind="stable")
        first = np.flatnonzero(np.diff(piece_start[by_piece], prepend=-1))
        for members in np.split(by_piece, first[1:]):
            one = members[0]
            order = self._piece(epoch, int(piece_start[one]), int(piece_end[one]))
            chosen[members] += order[line[members] - piece_start[one]]
        if self._members is not None:
            return self._members[chosen]
        return chosen + np.searchsorted(self._left_out, chosen, side="right")

    def _epoch(self, epoch: int) -> _Epoch:
        """The epoch's line of blocks. Two are kept, because a batch may lie across a border."""
        table = self._epochs.get(epoch)
        if table is None:
            if len(self._epochs) == 2:
                self._epochs.popitem(last=False)
            blocks = permutation(key(self._key, epoch, Purpose.BLOCKS), self.blocks)
            ends = self._bounds[1:][blocks]
            ends -= self._bounds[:-1][blocks]
            np.cumsum(ends, out=ends)
            table = self._epochs[epoch] = _Epoch(blocks, ends)
        return table

    def _piece(self, epoch: int, start: int, end: int) -> NDArray[np.int32]:
        """Permutation of the part of a block that lies in one lane, from `start` to `end` on the line."""
        piece = self._pieces.get((epoch, start))
        if piece is None:
            if len(self._pieces) >= 2 * self._plan.lanes:
                self._pieces.popitem(last=False)
            seed = key(self._key, epoch, start, Purpose.BLOCK_SAMPLES)
            piece = self._pieces[epoch, start] = permutation(seed, end - start).astype(np.int32)
        return piece


class Mixture:
    """Several orders as one: rows of L positions go to the datasets by integer weights in each period.

    With one dataset this is that dataset's order. Each dataset runs through its own epochs, exactly.
    """

    def __init__(self, orders: Sequence[Order], plan: Plan) -> None:
        if len(orders) != len(plan.weights):
            raise ValueError(f"plan: {len(plan.weights)} weights for {len(orders)} datasets; give one weight a dataset")
        self._orders = tuple(orders)
        self._lanes = plan.lanes
        self._weights = np.asarray(plan.weights, np.int64)
        self._turn = _interleave(plan.weights)
        before = np.stack([np.cumsum(self._turn == number) for number in range(len(orders))])
        self._before = before[self._turn, np.arange(len(self._turn))] - 1

    @property
    def epoch_positions(self) -> int:
        """Positions counted as one epoch: as many as all datasets' epochs together."""
        return sum(order.epoch_positions for order in self._orders)

    def locate(self, positions: Integers) -> Located:
        """Dataset, sample, the dataset's own epoch, and view at each run position."""
        if len(self._orders) == 1:
            return self._orders[0].locate(positions)
        row, lane = np.divmod(positions, self._lanes)
        period, phase = np.divmod(row, len(self._turn))
        dataset = self._turn[phase]
        own = (period * self._weights[dataset] + self._before[phase]) * self._lanes + lane
        result = Located(dataset, *(np.empty_like(positions) for _ in range(3)))
        for number, order in enumerate(self._orders):
            chosen = np.flatnonzero(dataset == number)
            for target, values in zip(result[1:], order.locate(own[chosen])[1:], strict=True):
                target[chosen] = values
        return result


def block_bounds(shard_samples: Integers, shard_bytes: Integers, plan: Plan) -> Integers:
    """First sample number of every block, and at the end the number of samples: shape (blocks + 1,).

    A shard of s bytes is cut into ceil(s / target) blocks whose sample counts differ by at most one, where target is
    the smaller of `plan.block_bytes` and a quarter of a lane's bytes. The number of ranks has no part in it.
    """
    by_limit = -(-shard_bytes // plan.block_bytes)
    by_lane = -(-shard_bytes * 4 * plan.lanes // max(int(shard_bytes.sum()), 1))
    blocks = np.minimum(np.maximum(by_limit, by_lane), shard_samples)
    shard_start = np.cumsum(shard_samples) - shard_samples
    first_block = np.cumsum(blocks) - blocks
    within = np.arange(int(blocks.sum()), dtype=np.int64) - np.repeat(first_block, blocks)
    within *= np.repeat(shard_samples, blocks)
    within //= np.repeat(blocks, blocks)
    within += np.repeat(shard_start, blocks)
    return np.append(within, shard_samples.sum())


def rank_positions(start: int, count: int, rank: int, world: int) -> Integers:
    """The run positions from `start` to `start + count` that are congruent to `rank` modulo `world`."""
    return np.arange(start + (rank - start) % world, start + count, world, dtype=np.int64)


def subset_hash(members: Integers) -> str:
    """Hash of a list of sample numbers, to record in a plan's `subset` beside the rule's name."""
    return hashlib.sha256(np.ascontiguousarray(members, "<i8").tobytes()).hexdigest()[:16]


def _interleave(weights: Sequence[int]) -> Integers:
    """Turns of one period: dataset numbers, each `weights[d]` times, spread as evenly as can be."""
    turns = [((turn + 0.5) / weight, number) for number, weight in enumerate(weights) for turn in range(weight)]
    return np.asarray([number for _, number in sorted(turns)], np.int64)
