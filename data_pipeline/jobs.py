"""What a stream asks to be filled: for each batch its rows, and what is handed out beside their pixels."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from data_pipeline.order import Integers, Located
from data_pipeline.rows import rows_of

_AT_A_TIME = 8192  # positions: the work of a lane is done once for all of them

Job = tuple[np.ndarray, tuple[int, Integers, Located]]
"""Rows (dtype `ROW_DTYPE`); where the global batch ends, the rank's run positions in it, and their samples."""


def locate_batches(
    spans: Iterator[tuple[int, int]],
    own: Callable[[int, int], Integers],
    locate: Callable[[Integers], Located],
    starts: Sequence[Integers],
) -> Iterator[Job]:
    """The jobs of global batches: one at first, so that nobody waits, then more and more at a time.

    Args:
        spans: start and end of each, in run positions.
        own: the rank's positions of a batch, given its start and their number.
        locate: the samples at positions.
        starts: of each dataset's shards, as `sample_starts` gives them.
    """
    most = 1
    while group := list(islice(spans, most)):
        positions = [own(start, stop - start) for start, stop in group]
        located = locate(np.concatenate(positions))
        rows = rows_of(starts, located)
        begin = 0
        for (_, stop), of_batch in zip(group, positions, strict=True):
            piece = slice(begin, begin + len(of_batch))
            begin = piece.stop
            rows["row"][piece] -= piece.start
            yield rows[piece], (stop, of_batch, Located(*(values[piece] for values in located)))
        most = max(1, min(2 * most, _AT_A_TIME // max(1, len(positions[0]))))
