"""Where images come from. A source lists its images, one after another, and reads one of them.

A source is a small frozen dataclass: worker processes are given it as it is, and open for themselves what it names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class MissingImageError(OSError):
    """An image that the source names and does not have, such as a dead link: left out, and listed in quarantine."""


class Found(NamedTuple):
    """One image as its source lists it.

    name: unique within the split, and independent of how the source's path is spelled. label: number or name of its
    class, None without one. size: bytes of the image, or a guess where telling would need reading it. place, offset:
    the source's own notes on where the image lies (row, number of a file, bytes into it).
    """

    split: str
    name: str
    label: int | str | None
    size: int
    place: int = 0
    offset: int = 0


class Entry(NamedTuple):
    """One image of a split as the listing keeps it; `label` is its class's number, -1 for none."""

    name: str
    label: int
    size: int
    place: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Outline:
    """What can be told of a source before its images are listed.

    `classes` are names by number, None where they follow from the labels found. `notes` are sentences for the user;
    `versions` those of the libraries that read it. `annotated`: its images have annotations, or some of them.
    """

    classes: tuple[str, ...] | None
    description: str
    notes: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    annotated: bool = False


class Source(Protocol):
    """A place of images."""

    def outline(self) -> Outline:
        """What is known at once.

        Raises:
            ValueError: there are no images, or they cannot be told apart from other things; says what to do.
            OSError: a file or folder cannot be read.
        """
        ...

    def images(self) -> Iterator[Found]:
        """All images, in an order that depends on nothing but the source, in memory that does not grow with them.

        A generator may return a tuple of sentences for the user, such as on what it passed over.

        Raises:
            ValueError, OSError: as above.
        """
        ...

    def read(self, split: str, entry: Entry, limit: int | None = None) -> bytes:
        """The bytes of an image as they are stored, or no more than the first `limit` of them.

        Raises:
            MissingImageError: the source only names it.
            OSError: a file that cannot be read.
        """
        ...

    def annotations(self, split: str, entry: Entry) -> dict[str, Any]:
        """What else the source knows of an image, for JSON: captions, boxes, several labels; empty for nothing.

        Raises:
            OSError: a file that cannot be read.
        """
        ...
