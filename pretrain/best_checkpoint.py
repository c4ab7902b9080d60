"""The pointer `checkpoints/best` of a run that chooses: which checkpoint its evaluations have found best."""

from pathlib import Path

from launch.atomic import Guard, write_atomically
from pretrain.checkpoint import Checkpoint, folder_of_step, read_checkpoint

_BEST = "best"


def move_best(folder: Path, step: int | None, guard: Guard | None) -> bool:
    """Let `best` name the checkpoint of a step, or nothing for None.

    Returns whether there is that checkpoint; `best` names nothing where it is gone.
    """
    pointer = folder / _BEST
    path = None if step is None else folder_of_step(folder, step)
    if path is not None and path.is_dir():
        if _named(folder) != path.name:
            write_atomically(pointer, path.name + "\n", guard)
        return True
    if pointer.exists():
        if guard is not None:
            guard()
        pointer.unlink()
    return path is None


def find_best(folder: Path) -> Checkpoint | None:
    """The checkpoint that `best` names in a run's folder of checkpoints; None where it names none.

    Raises:
        ValueError: that checkpoint is damaged or gone.
    """
    name = _named(folder)
    if name is None:
        return None
    try:
        return read_checkpoint(folder / name)
    except ValueError as error:
        raise ValueError(
            f"{error}; {folder / _BEST} names it as the best one of its run: restore it from a backup, or give the "
            "folder of another checkpoint"
        ) from error


def _named(folder: Path) -> str | None:
    pointer = folder / _BEST
    return pointer.read_text().strip() if pointer.is_file() else None
