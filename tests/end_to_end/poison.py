"""Run a script whose stream hands out damaged pixels at chosen run positions: floats, of which one is not a number.

python poison.py POSITIONS SCRIPT [argument ...]: POSITIONS is a JSON list of run positions, and of spans
[start, stop], the stop null for all that follow. The stream is patched here from outside, so that the product has no
hooks for tests.
"""

import json
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from data_pipeline.order import Integers
from data_pipeline.stream import Batch, Stream

Span = tuple[int, int | None]


def poison(spans: list[Span]) -> None:
    """Patch the stream, so that every row whose run position lies in one of the spans comes out damaged."""
    clean = Stream.__iter__

    def poisoned(self: Stream) -> Iterator[Batch]:
        for batch in clean(self):
            rows = np.flatnonzero(lies_in(spans, batch.positions))
            yield replace(batch, views=tuple(damage(view, rows) for view in batch.views)) if len(rows) > 0 else batch

    Stream.__iter__ = poisoned  # type: ignore[method-assign]


def lies_in(spans: list[Span], positions: Integers) -> np.ndarray:
    """Of each position whether it lies in one of the spans."""
    return np.any([(start <= positions) & (stop is None or positions < stop) for start, stop in spans], axis=0)


def damage(view: Tensor, rows: np.ndarray) -> Tensor:
    """A view of bytes (b, copies, height, width, channels) as floats, in which one pixel of these rows is NaN."""
    floats = view.float() / 255
    floats[rows, :, view.shape[2] // 2, view.shape[3] // 2] = float("nan")
    return floats


def parse(text: str) -> list[Span]:
    """The spans that POSITIONS names."""
    return [(one[0], one[1]) if isinstance(one, list) else (one, one + 1) for one in json.loads(text)]


if __name__ == "__main__":
    poison(parse(sys.argv[1]))
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
