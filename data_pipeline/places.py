"""The places of an epoch before they are permuted: which samples take part, in what order, cut into blocks.

Every sample has one place, but where a list of members says otherwise: it may leave samples out, and name some several
times. The places of copies come after each other in passes: the first pass holds every member once, the second all that
are named at least twice, and so on, each with blocks of its own. So the copies of an image are spread over an epoch as
different images are, and not shown in a row while their block is at hand.
"""

from collections.abc import Sequence

import numpy as np

from data_pipeline.block_cuts import Cuts, Integers


class Places:
    """The places of one split. Memory is O(shards + withdrawn), and with members O(places).

    Args:
        shard_samples, shard_bytes: of each shard, in manifest order.
        lanes, block_bytes: as of `Cuts`.
        members: non-decreasing numbers of the samples that take part, a sample as often as it has places; None for all.
        withdrawn: sorted numbers of samples that take no part in any case.

    Raises:
        ValueError: members that are not in order, or not of this split.
    """

    def __init__(
        self,
        shard_samples: Integers,
        shard_bytes: Integers,
        *,
        lanes: int,
        block_bytes: int,
        members: Integers | None,
        withdrawn: Sequence[int] | Integers,
    ) -> None:
        left_out = np.asarray(withdrawn, np.int64)
        self._withdrawn = left_out
        # The number of a sample among those that take part, and that of it among all, differ by the withdrawn before.
        self._left_out = left_out - np.arange(len(left_out))
        self._members: Integers | None = None
        self._passes: _Passes | None = None
        total = int(shard_bytes.sum())
        if members is not None:
            samples = int(shard_samples.sum())
            if len(members) and not (np.all(np.diff(members) >= 0) and members[0] >= 0 and members[-1] < samples):
                raise ValueError(f"subset: expected sample numbers from 0 to {samples - 1}, none below the one before")
            members = members[~np.isin(members, left_out)]
            if np.any(np.diff(members) == 0):
                self._passes = _Passes(shard_samples, members)
                members, shards = self._passes.members, self._passes.shards
                shard_samples, shard_bytes = shard_samples[shards], shard_bytes[shards]
            self._members = members
        all_take_part = members is None and not len(left_out)
        before = None if all_take_part else self._before
        self.cuts = Cuts(shard_samples, shard_bytes, lanes, block_bytes, before, total=total)

    @property
    def count(self) -> int:
        """How many there are."""
        return self.cuts.samples

    @property
    def has_copies(self) -> bool:
        """Whether a sample has several."""
        return self._passes is not None

    def look_up(self, places: Integers) -> tuple[Integers, Integers]:
        """The sample of each place, and which of its copies it is: 0 for the first."""
        if self._members is None:
            return places + np.searchsorted(self._left_out, places, side="right"), np.zeros_like(places)
        members = self._members[places]
        return (members, np.zeros_like(places)) if self._passes is None else self._passes.look_up(members)

    def _before(self, samples: Integers) -> Integers:
        """How many places lie before those of each sample."""
        if self._members is not None:
            return np.searchsorted(self._members, samples)
        return samples - np.searchsorted(self._withdrawn, samples)


class _Passes:
    """Members with copies as members without: numbers of a longer split, which holds shards once for each pass.

    `shards` are those of the longer split, by their numbers in the split itself; those of which a pass shows nothing
    are left out. `members` are increasing.
    """

    def __init__(self, shard_samples: Integers, members: Integers) -> None:
        ends = np.cumsum(shard_samples)
        copies = np.arange(len(members)) - np.searchsorted(members, members)
        members = members[np.argsort(copies, kind="stable")]
        copies.sort()
        shards = np.searchsorted(ends, members, side="right")
        # One number for each pass and shard.
        held, inside = np.unique(copies * len(ends) + shards, return_inverse=True)
        self._copies, self.shards = np.divmod(held, len(ends))
        lengths = shard_samples[self.shards]
        self._starts = np.cumsum(lengths) - lengths
        self._shift = self._starts - (ends - shard_samples)[self.shards]
        self.members = members + self._shift[inside]

    def look_up(self, members: Integers) -> tuple[Integers, Integers]:
        """The number in the split itself of each member of the longer one, and its pass."""
        inside = np.searchsorted(self._starts, members, side="right") - 1
        return members - self._shift[inside], self._copies[inside]
