"""The order of samples: (fingerprint, plan, seed, t) -> sample; pure functions.

A shard is cut into blocks, contiguous ranges of samples read together. Each epoch permutes the blocks, lays them end
to end and cuts this line of N samples into L equal lanes. Position t of the epoch is lane t mod L, offset t div L;
inside a lane the samples of a block are permuted. So every batch mixes all lanes, every lane reads one block at a time,
and a rank that takes the positions congruent to r mod R reads only its own lanes where R divides L.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.block_cuts import Cuts, Integers
from data_pipeline.block_line import Line, Stretch
from data_pipeline.places import Places
from data_pipeline.randomness import Purpose, key, permutation

ORDER_VERSION = 1
SMALL_WORLD_LANES = 240
LARGE_WORLD_LANES = 7_680
BLOCK_BYTES = 8_000_000

_BLOCKS_AT_A_TIME = 1 << 18  # of an epoch are sorted, about: at 8 MB a block, those of 2 TB


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
    """Where each of n positions lies: arrays of shape (n,). Copy c of a sample goes on with view c times the plan's."""

    dataset: Integers
    sample: Integers
    epoch: Integers
    view: Integers


class Order:
    """The order of one split.

    Args:
        shard_samples, shard_bytes: of each shard, in manifest order.
        fingerprint: of the split, hex; part of every key.
        plan: lanes, block size and views (weights are for `Mixture`).
        seed: of the run.
        members: sorted numbers of the samples that take part, a sample as often as it has places in an epoch; None for
            all. Copies of a sample are told apart as further views of it.
        withdrawn: sorted numbers of samples that take no part in any case.
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
        self._places = Places(
            np.asarray(shard_samples, np.int64),
            np.asarray(shard_bytes, np.int64),
            lanes=plan.lanes,
            block_bytes=plan.block_bytes,
            members=members,
            withdrawn=withdrawn,
        )
        self._cuts = self._places.cuts
        self.samples = self._places.count
        if self.samples == 0:
            raise ValueError("the split (or the subset of it) holds no samples")
        # Of every lane so many samples are looked at while the blocks that hold them are at hand.
        at_a_time = -(-self._cuts.count // _BLOCKS_AT_A_TIME)
        self._reach = -(-self.samples // plan.lanes) // at_a_time + 1
        self._lines: OrderedDict[int, Line] = OrderedDict()
        self._stretches: OrderedDict[tuple[int, int], Stretch] = OrderedDict()
        self._pieces: OrderedDict[tuple[int, int], NDArray[np.int32]] = OrderedDict()

    @property
    def has_copies(self) -> bool:
        """Whether some samples have several places in an epoch; `samples` counts places."""
        return self._places.has_copies

    @property
    def epoch_positions(self) -> int:
        """Positions in an epoch: N samples (places) times m views."""
        return self.samples * self._plan.views

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self._cuts.count

    def locate(self, positions: Integers) -> Located:
        """Sample, epoch and view at each run position; positions may be any, in any order."""
        epochs, within = np.divmod(positions, self.epoch_positions)
        lane, offset, view = self._lane_offset_view(within)
        places = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = np.flatnonzero(epochs == epoch)
            places[chosen] = self._places_at(int(epoch), lane[chosen], offset[chosen])
        samples, copies = self._places.look_up(places)
        return Located(np.zeros_like(positions), samples, epochs, copies * self._plan.views + view)

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

    def _places_at(self, epoch: int, lane: Integers, offset: Integers) -> Integers:
        chosen = np.empty_like(lane)
        parts = offset // self._reach
        for part in np.unique(parts):
            inside = np.flatnonzero(parts == part)
            chosen[inside] = self._places_of_a_part(epoch, int(part), lane[inside], offset[inside])
        return chosen

    def _places_of_a_part(self, epoch: int, part: int, lane: Integers, offset: Integers) -> Integers:
        """Numbers of places, where all offsets lie in the same part of their lanes."""
        stretch = self._stretch(epoch, part)
        lane_start, lane_end = self._lanes(lane)
        line = lane_start + offset
        place = np.searchsorted(stretch.ends, line, side="right")
        block, block_end = stretch.blocks[place], stretch.ends[place]
        first = self._cuts.starts(block)
        block_start = block_end - (self._cuts.starts(block + 1) - first)
        piece_start = np.maximum(block_start, lane_start)
        piece_end = np.minimum(block_end, lane_end)
        chosen = first + (piece_start - block_start)
        by_piece = np.argsort(piece_start, kind="stable")
        borders = np.flatnonzero(np.diff(piece_start[by_piece], prepend=-1))
        for members in np.split(by_piece, borders[1:]):
            one = members[0]
            order = self._piece(epoch, int(piece_start[one]), int(piece_end[one]))
            chosen[members] += order[line[members] - piece_start[one]]
        return chosen

    def _lanes(self, lane: Integers) -> tuple[Integers, Integers]:
        """Where on the line these lanes start and end."""
        rows, rest = divmod(self.samples, self._plan.lanes)
        start = lane * rows + np.minimum(lane, rest)
        return start, start + rows + (lane < rest)

    def _stretch(self, epoch: int, part: int) -> Stretch:
        """The blocks of the same part of every lane: all lanes are read at the same pace."""
        found = self._stretches.get((epoch, part))
        if found is None:
            if len(self._stretches) == 2:  # a batch may lie across a border
                self._stretches.popitem(last=False)
            start, end = self._lanes(np.arange(self._plan.lanes, dtype=np.int64))
            start += part * self._reach
            found = self._line(epoch).stretch(start, np.minimum(start + self._reach, end))
            self._stretches[epoch, part] = found
        return found

    def _line(self, epoch: int) -> Line:
        line = self._lines.get(epoch)
        if line is None:
            if len(self._lines) == 2:
                self._lines.popitem(last=False)
            seed = key(self._key, epoch, Purpose.BLOCKS)
            line = self._lines[epoch] = Line(self._cuts, seed)
        return line

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


def fixed(locate: Callable[[Integers], Located], views: int, count: int, positions: Integers) -> Located:
    """What `locate` gives, where each sample has `count` different views in all: slot (epoch * views + view) mod count.

    `views` are those of an epoch. The slot takes the epoch's place, so that slot s shows of a sample what epoch s of a
    run with one view an epoch shows.
    """
    located = locate(positions)
    slots = (located.epoch * views + located.view) % count
    return located._replace(epoch=slots, view=np.zeros_like(slots))


def block_bounds(shard_samples: Integers, shard_bytes: Integers, plan: Plan) -> Integers:
    """First sample number of every block, and at the end the number of samples: shape (blocks + 1,); see `Cuts`."""
    cuts = Cuts(shard_samples, shard_bytes, plan.lanes, plan.block_bytes)
    return cuts.bounds(0, cuts.count)


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
