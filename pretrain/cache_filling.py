"""Computing what a teacher says of fixed views, by all processes, from wherever an earlier attempt was interrupted."""

from collections.abc import Callable
from contextlib import closing
from math import prod

import torch

from data_pipeline.batch import Batch
from launch.atomic import Guard
from launch.console import Console
from pretrain.cache_files import CacheFiles, Progress
from pretrain.cache_identity import CacheIdentity
from pretrain.first_rank import on_first
from pretrain.fixed_views import FixedViews
from pretrain.row_format import RowFormat, T
from pretrain.row_writer import RowWriter
from pretrain.world import World

_PIXELS = 128 * 224**2  # of the teacher's input, in the rows that are computed together
_PIECES = 32  # of rows, by each process, before what is there is put down


def fill(
    files: CacheFiles[T],
    identity: CacheIdentity[T],
    views: FixedViews,
    judge: Callable[[Batch], T],
    *,
    world: World,
    console: Console,
    workers: int,
    guard: Guard,
) -> None:
    """Compute the rows that are not there: in rounds, each of which is written, synced, and then put down.

    Rows that are computed together do not depend on the number of processes, so the files are the same on any.

    Args:
        judge: what the teacher says of what the rows of a batch show.
        guard: raises where rank 0 may no longer write.

    Raises:
        ValueError: rows that cannot be kept, such as NaNs. OSError: no room. LockLostError: another run has taken
            the folder over.
    """
    made_from = identity.to_json()

    def begin() -> int:
        found = files.read()
        return files.prepare(made_from, None if found is None else found[1], guard)

    together = _rows_together(identity.teacher.size)
    first = on_first(world, begin) // together * together
    batches = views.batches(together, first=first, rank=world.rank, world=world.size, workers=workers)
    a_round = together * _PIECES * world.size
    with (
        console.progress(files.rows, label=f"teacher's {files.format.noun}", start=first) as progress,
        RowWriter(files) as writer,
        closing(batches),
        torch.no_grad(),
    ):
        for start in range(first, files.rows, a_round):
            stop = min(start + a_round, files.rows)
            for piece in range(start // together, -(-stop // together)):
                if piece % world.size != world.rank:
                    continue
                batch = next(batches)
                assert batch.positions[0] == piece * together
                judged = judge(batch)
                _check(files.format, judged, batch, views)
                rows = min(together, files.rows - piece * together)  # the last piece is filled up
                packed = files.format.pack(judged)
                writer.write(piece * together, {name: column[:rows] for name, column in packed.items()})
                progress.advance(min(together * world.size, stop - progress.position))
            writer.sync()
            world.barrier()
            if world.rank == 0 and stop < files.rows:
                files.mark(made_from, Progress(stop), guard)
            progress.advance(stop - progress.position)
    on_first(world, lambda: files.finish(made_from, guard))


def _rows_together(size: tuple[int, int]) -> int:
    """A power of two, from 16 to 256: large enough to keep a GPU busy, and no burden for its memory."""
    return min(256, max(16, 1 << (_PIXELS // prod(size)).bit_length() - 1))


def _check(rows: RowFormat[T], judged: T, batch: Batch, views: FixedViews) -> None:
    is_broken = rows.fits(judged).logical_not().cpu().numpy()
    if is_broken.any():
        raise ValueError(
            f"--teacher: its {rows.noun} of sample {batch.samples[is_broken][0]} of {views.part.manifest.folder} "
            f"[{views.part.split}] are {rows.refusal}"
        )
