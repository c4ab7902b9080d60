"""What a report's page is made of: blocks of plain values, which finetune/report.html.jinja draws by their kind."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

NOTHING = "—"
"""Stands in a table where there is no value."""


def shown(value: int | float | None, how: Callable[[int | float], str]) -> str:
    """A number as text, or what stands where there is none."""
    return NOTHING if value is None else how(value)


@dataclass(frozen=True)
class Caption:
    """What a figure shows, and the files that it was made from."""

    text: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Note:
    """A sentence, such as why something is not shown."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Plot:
    """An SVG figure, as finetune/report_figures.py draws it; `alt` says what a screen reader reads."""

    kind: ClassVar[str] = "plot"
    svg: str
    alt: str
    caption: Caption


@dataclass(frozen=True)
class Scale:
    """A colour map (CSS colours from low to high) and what its ends stand for."""

    colours: tuple[str, ...]
    low: str
    high: str


@dataclass(frozen=True)
class Picture:
    """An image, as a data: URI. `is_paper`: it is dark on a transparent or white ground, so it needs a light card."""

    kind: ClassVar[str] = "picture"
    uri: str
    alt: str
    caption: Caption
    is_paper: bool = False
    scale: Scale | None = None


@dataclass(frozen=True)
class Tile:
    """A small image (data: URI) above its label and, in a second line, a detail."""

    uri: str
    label: str
    detail: str
    alt: str


@dataclass(frozen=True)
class Strips:
    """Rows of tiles."""

    kind: ClassVar[str] = "strips"
    rows: tuple[tuple[Tile, ...], ...]
    caption: Caption
    scale: Scale | None = None


@dataclass(frozen=True)
class Table:
    """Text in rows; `numeric` columns are set flush right."""

    kind: ClassVar[str] = "table"
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int]
    caption: Caption


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: counts (true class, predicted class), shaded by their share of the row."""

    kind: ClassVar[str] = "matrix"
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    shares: tuple[tuple[float, ...], ...]
    caption: Caption


@dataclass(frozen=True)
class Bar:
    """A labelled share in [0, 1] as a bar; None where there is nothing to take a share of."""

    label: str
    share: float | None
    text: str


@dataclass(frozen=True)
class Bars:
    """Bars below each other; those of `more` are folded away."""

    kind: ClassVar[str] = "bars"
    bars: tuple[Bar, ...]
    caption: Caption
    more: tuple[Bar, ...] = ()


@dataclass(frozen=True)
class Properties:
    """Names and values, folded away under a title."""

    kind: ClassVar[str] = "properties"
    title: str
    rows: tuple[tuple[str, str], ...]
    source: str


Block = Note | Plot | Picture | Strips | Table | Matrix | Bars | Properties


Layout = Literal["stack", "halves", "thirds"]


@dataclass(frozen=True)
class Section:
    """Blocks under a heading, where there is room side by side. `anchor` is unique in the page.

    In `halves` the first block takes the whole width.
    """

    title: str
    anchor: str
    blocks: tuple[Block, ...]
    layout: Layout = "stack"


@dataclass(frozen=True)
class Chapter:
    """All about one folder."""

    title: str
    anchor: str
    what: str
    status: str
    notes: tuple[str, ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class SummaryRow:
    """One folder in the summary at the top: the cells after its name, which leads to `anchor`."""

    name: str
    anchor: str
    status: str
    cells: tuple[str, ...]
