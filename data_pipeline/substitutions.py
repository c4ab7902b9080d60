"""Samples whose bytes are intact and yet do not decode: kept count of, and not too many of them."""

from collections.abc import Iterable, Sequence

from data_pipeline.manifest import DatasetError, Split, locate_sample, sample_starts
from data_pipeline.rows import Substitution

_MOST_SUBSTITUTED = 0.001


class Substitutions:
    """What a stream has met of them, each sample once."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self._splits = splits
        self._met: dict[tuple[int, int], Substitution] = {}

    def add(self, substitutions: Iterable[Substitution]) -> None:
        """Keep these.

        Raises:
            DatasetError: there are too many for a dataset that sherd has written.
        """
        for substitution in substitutions:
            self._met[substitution.dataset, substitution.sample] = substitution
        samples = sum(split.present for split in self._splits)
        if len(self._met) > _MOST_SUBSTITUTED * samples:
            dataset, sample, _, reason = next(iter(self._met.values()))
            split = self._splits[dataset]
            shard, row = locate_sample(sample_starts(split), [sample])
            raise DatasetError(
                f"{len(self._met)} of {samples} samples do not decode, more than {_MOST_SUBSTITUTED:.1%}: "
                f"the first is sample {row[0]} of shard {split.shards[shard[0]].file} ({reason}); "
                "write the dataset again with this version of sherd, which leaves such images out"
            )

    def to_json(self) -> list[list[int | str]]:
        """For a state."""
        return [list(substitution) for substitution in self._met.values()]

    def load(self, rows: Iterable[tuple[int, int, int, str]]) -> None:
        """Go on from what `to_json` gave."""
        self._met = {(row[0], row[1]): Substitution(*row) for row in rows}
