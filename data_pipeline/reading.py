"""How a rank reads the tars of its parts: local ones as they lie, those of a store through a cache that is filled
ahead.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from data_pipeline.block_cache import BlockCache, open_cache
from data_pipeline.blocks import bounds_of, fits_cache
from data_pipeline.location import RemotePath
from data_pipeline.manifest import Manifest
from data_pipeline.order import Integers, Plan
from data_pipeline.prefetch import Prefetcher
from data_pipeline.storage import ShardReader

_BATCHES_AHEAD = 8  # whose blocks are fetched while earlier batches are filled
_BATCHES_ALONE = 4  # after a start, whose samples are read one by one rather than wait for whole blocks
Tag = TypeVar("Tag")


class Access(NamedTuple):
    """What every process of a rank must agree on: of each part the bounds of its blocks, the cache that they share, and
    whether samples are read singly, since the blocks of all lanes would not fit it. Picklable.
    """

    bounds: tuple[Integers | None, ...]
    cache: BlockCache | None = None
    singly: bool = False

    def readers(self, parts: Sequence[tuple[Manifest, str]]) -> list[ShardReader]:
        """A reader for each part (a manifest and the name of a split), of this process."""
        return [
            ShardReader(manifest, manifest.split(split), bounds, self.cache, singly=self.singly)
            for (manifest, split), bounds in zip(parts, self.bounds, strict=True)
        ]


class Reading:
    """A rank's access, and the threads that fetch ahead for it; for local parts there is nothing of the kind.

    `plan` is that of the order, None for reading from the first sample to the last; `world`: ranks that share it.
    """

    def __init__(self, parts: Sequence[tuple[Manifest, str]], plan: Plan | None, world: int) -> None:
        far = [manifest.split(split) for manifest, split in parts if isinstance(manifest.tars, RemotePath)]
        self._prefetcher: Prefetcher | None = None
        self.access = Access((None,) * len(parts))
        if far:
            cache = open_cache()
            splits = [manifest.split(split) for manifest, split in parts]
            bounds = tuple(None if plan is None else bounds_of(split, plan) for split in splits)
            singly = plan is not None and not fits_cache(far, plan, world, cache.most_bytes)
            self.access = Access(bounds, cache, singly)
            if not singly:
                self._prefetcher = Prefetcher(parts, bounds, cache)

    def ahead(self, jobs: Iterator[tuple[np.ndarray, Tag]]) -> Iterator[tuple[np.ndarray, Tag]]:
        """The same jobs (rows of dtype `ROW_DTYPE`, and what belongs to them), their blocks asked for in advance."""
        if self._prefetcher is None:
            yield from jobs
            return
        coming: deque[tuple[np.ndarray, Tag]] = deque()
        for number, (rows, tag) in enumerate(jobs):
            rows["alone"] = number < _BATCHES_ALONE
            self._prefetcher.want(rows)
            coming.append((rows, tag))
            if len(coming) > _BATCHES_AHEAD:
                yield coming.popleft()
        yield from coming

    def close(self) -> None:
        """End the threads and remove the cache, unless it is one that stays; only once nobody reads any more."""
        if self._prefetcher is not None:
            self._prefetcher.close()
        if self.access.cache is not None:
            self.access.cache.close()
