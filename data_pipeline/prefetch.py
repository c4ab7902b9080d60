"""Fetching the blocks that coming batches need, ahead of the workers that read them."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from data_pipeline.block_cache import BlockCache
from data_pipeline.blocks import Blocks, RemoteShards
from data_pipeline.location import RemotePath
from data_pipeline.manifest import DatasetError, Manifest
from data_pipeline.order import Integers
from data_pipeline.patience import PATIENCE, NotWantedError, Patience

_MOST_OPEN = 16  # indexes each thread keeps mapped
_MOST_QUEUED = 4096
_ASKED_SECONDS = 5.0
_JOIN_SECONDS = 5.0


class Prefetcher:
    """Threads of a rank's own process that bring blocks into the cache; for local parts it does nothing.

    What it does is a hint: a block that it does not bring is fetched by the worker that needs it, and a store or a
    dataset that fails is met, and told of, there.

    Args:
        parts: manifest and name of the split of each dataset, by the numbers that `want` uses.
        bounds: of each part's blocks, as its readers have them.
        cache: that the readers use.
        threads: fetching at a time.
        patience: with the store.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Manifest, str]],
        bounds: Sequence[Integers | None],
        cache: BlockCache,
        *,
        threads: int = 8,
        patience: Patience = PATIENCE,
    ) -> None:
        self._parts = [(manifest, manifest.split(name)) for manifest, name in parts]
        self._bounds = list(bounds)
        self._blocks = {
            number: Blocks(split, bounds[number])
            for number, (manifest, split) in enumerate(self._parts)
            if isinstance(manifest.tars, RemotePath)
        }
        self._cache = cache
        self._closing = threading.Event()
        self._patience = replace(patience, sleep=self._closing.wait, interrupt=self._check)
        self._queue: deque[tuple[int, int]] = deque(maxlen=_MOST_QUEUED)  # the oldest wishes are dropped
        self._asked: OrderedDict[tuple[int, int], float] = OrderedDict()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        if self._blocks:
            self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
            for thread in self._threads:
                thread.start()

    def want(self, rows: np.ndarray) -> None:
        """Queue the blocks of these rows (fields dataset, shard, index), in the order in which they come first."""
        now = time.monotonic()
        wishes = []
        for dataset, blocks in self._blocks.items():
            chosen = np.flatnonzero(rows["dataset"] == dataset)
            numbers, first = np.unique(blocks.numbers(rows["shard"][chosen], rows["index"][chosen]), return_index=True)
            wishes += [(place, dataset, number) for place, number in zip(chosen[first], numbers.tolist(), strict=True)]
        with self._changed:
            while self._asked and next(iter(self._asked.values())) < now - _ASKED_SECONDS:
                self._asked.popitem(last=False)
            for _, dataset, number in sorted(wishes):
                if (dataset, number) not in self._asked:
                    self._asked[dataset, number] = now
                    self._queue.append((dataset, number))
            self._changed.notify_all()

    def close(self) -> None:
        """End the threads; one that waits for a store notices within about a second."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)

    def _check(self) -> None:
        if self._closing.is_set():
            raise NotWantedError

    def _work(self) -> None:
        readers = {
            dataset: RemoteShards(
                *self._parts[dataset],
                self._bounds[dataset],
                cache=self._cache,
                patience=self._patience,
                most_open=_MOST_OPEN,
            )
            for dataset in self._blocks
        }
        while True:
            with self._changed:
                while not self._queue and not self._closing.is_set():
                    self._changed.wait()
                if self._closing.is_set():
                    return
                dataset, number = self._queue.popleft()
            try:
                readers[dataset].bring(number)
            except NotWantedError:
                return
            except (DatasetError, OSError):
                continue  # the worker that needs the block meets the same, and reports it
