"""What the process that measures a loader and the functions that set loaders up tell each other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Setting:
    """folder: of data in the loader's own format. images: in it. size: of a view's sides, in pixels."""

    folder: Path
    images: int
    size: int
    batch_size: int
    workers: int


def _nothing() -> None:
    """For loaders that need not be told."""


@dataclass
class Loader:
    """A loader that has been set up.

    batches: without end, of images and labels. begin: is called when what was filled ahead is used up, before anything
    is counted. stages: where the time went since then, given a batch such as these, for JSON. close: ends what it
    started.
    """

    batches: "Iterator[tuple[Tensor, Tensor]]"
    begin: Callable[[], None] = _nothing
    stages: "Callable[[Tensor], dict[str, Any]] | None" = None
    close: Callable[[], None] = _nothing


class AbsentError(Exception):
    """This contender cannot be measured here: the text says why."""
