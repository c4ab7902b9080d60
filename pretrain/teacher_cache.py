"""A teacher's cost paid once: what it says of a fixed number of views of each training image, its logits or its
features, computed before training and looked up in it.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic

from torch import Tensor

from data_pipeline.batch import Batch
from data_pipeline.location import RemotePath
from launch.console import Console
from launch.lock import FolderInUseError, WorldLock
from pretrain.cache_files import CacheFiles
from pretrain.cache_filling import fill
from pretrain.cache_identity import CacheIdentity
from pretrain.first_rank import on_first
from pretrain.fixed_views import FixedViews
from pretrain.row_format import T, are_finite
from pretrain.teacher_cache_config import TeacherCacheConfig
from pretrain.world import World

_FOLDER = ".teacher"
_WAIT = 5.0  # seconds between two looks at a cache that another run fills


class TeacherCache(Generic[T]):
    """A whole cache; how much of it is in memory is the system's business."""

    def __init__(self, files: CacheFiles[T], views: FixedViews) -> None:
        self.files = files
        self._views = views
        self._columns = files.mapped()

    def lookup(self, batch: Batch) -> T:
        """What the teacher says of what each row shows, on the CPU: its logits (b, classes), in fp32 and less a number
        of each row's own, or its features, in fp16.

        Raises:
            ValueError: a sample that has none, or numbers that are not finite.
        """
        assert not batch.datasets.any()
        assert (batch.epochs < self._views.views).all(), "a stream of more views than are kept"
        rows = batch.epochs * self._views.samples + self._views.places(batch.samples)
        columns = {name: column[rows] for name, column in self._columns.items()}
        is_broken = ~are_finite(columns)
        if is_broken.any():
            noun = self.files.format.noun
            raise self.files.damaged(f"the {noun} of sample {batch.samples[is_broken][0]} are not finite")
        return self.files.format.unpack(columns)


def open_or_fill(
    config: TeacherCacheConfig,
    identity: CacheIdentity[T],
    views: FixedViews,
    *,
    prepare: Callable[[Batch], Tensor],
    judge: Callable[[Tensor], T],
    world: World,
    console: Console,
    workers: int,
) -> TeacherCache[T]:
    """The cache of what the teacher says of these views: the one that is there, or one that is computed now.

    Filling is shared by all processes, gives the same bytes on any number of them, and goes on where it was
    interrupted. Where another run fills the same cache this one waits for it. Every process must call it.

    Args:
        prepare: images (b, c, h, w) on the device as the student sees them, of batches whose `positions` mean nothing.
        judge: what the teacher says of such images: a row of the identity's format of each.
        workers: processes that decode, for each training process.

    Raises:
        ValueError: there is a cache that was made from something else, or is damaged; rows that cannot be kept,
            such as NaNs.
        OSError: no room for it, or no right to write there.
    """
    assert identity.images == views.facts
    files = CacheFiles(cache_folder(config, identity, views), identity.rows, views.views, views.samples)
    what = f"the teacher's {files.format.noun} of {views.views} views of {views.samples:,} images"

    def is_whole() -> bool:
        found = files.read()
        if found is None:
            return False
        made_from, progress = found
        identity.compare(made_from, str(files.folder))
        if progress.is_whole:
            files.check(progress)
        return progress.is_whole

    if on_first(world, is_whole):
        console.say(f"{what} are there already: {files.folder}")
        return TeacherCache(files, views)
    lock = WorldLock(files.folder)
    _acquire(lock, files.format.noun, world, console)
    try:
        if not on_first(world, is_whole):  # it is if another run has filled it meanwhile
            begin = time.monotonic()
            console.say(f"computing {what}, to keep them in {files.size / 1e6:,.2f} MB: {files.folder}")
            fill(
                files,
                identity,
                views,
                lambda batch: judge(prepare(batch)),
                world=world,
                console=console,
                workers=workers,
                guard=lock.check,
            )
            console.say(f"computed {what} in {time.monotonic() - begin:,.1f} s")
    finally:
        lock.release()
    return TeacherCache(files, views)


def cache_folder(config: TeacherCacheConfig, identity: CacheIdentity[Any], views: FixedViews) -> Path:
    """Where a cache is: the folder that the config names, or one of its own beside the shards.

    Raises:
        ValueError: none is named, and the dataset is in a store.
    """
    if config.folder is not None:
        return Path(config.folder)
    beside = views.part.manifest.folder
    if isinstance(beside, RemotePath):
        raise ValueError(  # noqa: TRY004 - a path of the right kind, in the wrong place
            f"--cache-teacher.views {config.views}: the dataset is in a store, {beside}, where no cache can be mapped "
            "into memory; give a folder on this machine with --cache-teacher.folder"
        )
    return beside / _FOLDER / identity.key


def _acquire(lock: WorldLock, noun: str, world: World, console: Console) -> None:
    """Rank 0 takes the lock; while another run holds it, and so fills the cache, all wait."""

    def holder() -> str:
        try:
            lock.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(wait_seconds=_WAIT)
        except FolderInUseError as error:
            return str(error).partition(";")[0]
        except OSError as error:
            raise type(error)(
                error.errno,
                f"{lock.folder}: the teacher's {noun} cannot be kept there ({error.strerror}); give a folder that "
                "can be written with --cache-teacher.folder",
            ) from error
        return ""

    is_told = False
    while found := on_first(world, holder):
        if not is_told:
            console.say(f"waiting for another run to fill the teacher's cache: {found}")
        is_told = True
