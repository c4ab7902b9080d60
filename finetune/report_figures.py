"""The curves of a report, as SVG that stands in an HTML page and takes its colours from it, light or dark."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Values = NDArray[np.float64]

# matplotlib knows no CSS variables: these colours, which nothing else has, stand for them until the SVG is written.
_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_SERIES = ("#040404", "#050505", "#060606")
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _GRID: "var(--grid)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, start=1)},
}


def axes_style(ink: str, muted: str, grid: str) -> dict[Any, Any]:
    """matplotlib's settings for curves over horizontal lines alone, in three colours."""
    return {
        "text.parse_math": False,
        "axes.titlelocation": "left",
        "axes.titlecolor": ink,
        "axes.labelcolor": muted,
        "axes.edgecolor": grid,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": grid,
        "xtick.color": grid,
        "ytick.color": grid,
        "xtick.labelcolor": muted,
        "ytick.labelcolor": muted,
        "legend.frameon": False,
        "legend.labelcolor": ink,
    }


_STYLE = {
    **axes_style(_INK, _MUTED, _GRID),
    "svg.fonttype": "none",  # text stays text: it can be searched, and has the page's font
    "font.size": 9,
    "axes.titlesize": 9,
    "grid.linewidth": 0.8,
    "text.color": _INK,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
}
_WIDTH, _HEIGHT = 3.6, 3.1  # inches; a page shows them about as large, also on a phone
_MOST_POINTS = 400


@dataclass(frozen=True)
class Curve:
    """y over x, both (n,); NaN leaves a gap."""

    label: str
    x: Values
    y: Values


def averaging(points: int) -> int:
    """How many neighbouring points of so many are drawn as one, their mean."""
    return -(-points // _MOST_POINTS)


def training_curves(anchor: str, loss: Curve, rate: Curve, parts: Sequence[Curve] = ()) -> str:
    """Loss, and at most two parts of it, above learning rate, over epochs."""
    with _panels(anchor, 2, ratios=(2.2, 1.0)) as (svg, (above, below)):
        for curve, colour in zip((loss, *parts), _SERIES[: 1 + len(parts)], strict=True):
            _line(above, curve, colour)
        above.set_title("loss")
        if parts:
            _legend(above)
        _line(below, rate, _SERIES[0])
        below.set_title("learning rate")
        below.set_ylim(bottom=0)
        below.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        below.set_xlabel("epoch")
    return svg.getvalue()


def accuracy_curves(anchor: str, curves: Sequence[Curve]) -> str:
    """Accuracies over epochs, each evaluation a point; three curves at most."""
    with _panels(anchor, 1) as (svg, (axes,)):
        for curve, colour in zip(curves, _SERIES[: len(curves)], strict=True):
            axes.plot(curve.x, curve.y, color=colour, marker="o", markersize=4, label=curve.label)
        axes.set_title(curves[0].label if len(curves) == 1 else "accuracy")
        if len(curves) > 1:
            _legend(axes)
        _percent(axes)
        _limit(axes, np.concatenate([curve.y for curve in curves]))
        axes.set_xlabel("epoch")
    return svg.getvalue()


def agreement_curve(anchor: str, agreement: Curve) -> str:
    """How often student and teacher choose the same class, a share, over epochs."""
    with _panels(anchor, 1) as (svg, (axes,)):
        _line(axes, agreement, _SERIES[0])
        axes.set_title("same class as the teacher")
        axes.set_ylim(0, 1)
        _percent(axes)
        axes.set_xlabel("epoch")
    return svg.getvalue()


def throughput(anchor: str, rate: Curve, wait: Curve, teacher: Curve | None = None) -> str:
    """Images a second above the share of time that training waits for data, and that of a teacher, over epochs."""
    with _panels(anchor, 2, ratios=(1.6, 1.0)) as (svg, (above, below)):
        _line(above, rate, _SERIES[0])
        above.set_title("images per second")
        above.set_ylim(bottom=0)
        above.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}")
        shares = [wait] if teacher is None else [wait, teacher]
        for curve, colour in zip(shares, _SERIES[1 : 1 + len(shares)], strict=True):
            _line(below, curve, colour)
        below.set_title("share of the time waiting for data" if teacher is None else "share of time")
        if teacher is not None:
            _legend(below)
        highest = max(float(np.nanmax(curve.y, initial=0)) for curve in shares)
        below.set_ylim(0, max(0.1, highest * 1.1))
        _percent(below)
        below.set_xlabel("epoch")
    return svg.getvalue()


def accuracy_by_labels(anchor: str, labels: Sequence[str], results: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Accuracy against the number of labels: of each method a point a seed, and a line through their means.

    labels: (n,). results: by method n lists of accuracies, one a seed; an empty list leaves a gap.
    """
    with _panels(anchor, 1, width=4.8) as (svg, (axes,)):
        for number, (method, colour) in enumerate(zip(results, _SERIES[: len(results)], strict=True)):
            points = results[method]
            means = [float(np.mean(seeds)) if len(seeds) else np.nan for seeds in points]
            axes.plot(range(len(labels)), means, color=colour, label=method)
            places = np.concatenate([np.full(len(seeds), float(place)) for place, seeds in enumerate(points)])
            shifted = places + 0.04 * (number - (len(results) - 1) / 2)  # side by side where methods are equally good
            axes.scatter(shifted, np.concatenate(points), s=18, color=colour, alpha=0.75, linewidths=0)
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlim(-0.35, len(labels) - 0.65)
        axes.set_xlabel("labelled images a class")
        axes.set_title("top-1")
        _legend(axes)
        _percent(axes)
    return svg.getvalue()


@contextmanager
def _panels(
    anchor: str, count: int, *, ratios: tuple[float, ...] = (1.0,), width: float = _WIDTH
) -> Iterator[tuple[io.StringIO, list[Axes]]]:
    """Axes above each other to draw on; the SVG is written on leaving."""
    result = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": anchor}):
        figure = Figure(figsize=(width, _HEIGHT), layout="constrained")
        grid = figure.subplots(count, 1, sharex=True, squeeze=False, height_ratios=ratios)
        panels = [axes for (axes,) in grid]
        yield result, panels
        for axes in panels:
            if axes.get_xlabel() == "epoch":
                axes.set_xlim(left=0)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5 if axes is panels[0] else 3, steps=[1, 2, 2.5, 5, 10]))
        written = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    result.write(_for_page(written.getvalue(), anchor))


def _for_page(svg: str, anchor: str) -> str:
    """Without what belongs to a file of its own, ids unique in a page, colours its variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{anchor}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg


def _line(axes: Axes, curve: Curve, colour: str) -> None:
    """A line; where there are more points than can be seen, of the means of neighbours."""
    size = averaging(len(curve.x))
    x, y = _means(curve.x, size), _means(curve.y, size)
    axes.plot(x, y, color=colour, marker="o" if len(x) < 3 else None, markersize=4, label=curve.label)


def _means(values: Values, size: int) -> Values:
    """Means of `size` neighbours each, of those that are numbers: (n,) -> (ceil(n / size),)."""
    padded = np.append(values, np.full(-len(values) % size, np.nan))
    groups = np.ma.masked_invalid(padded.reshape(-1, size))
    return groups.mean(axis=1).filled(np.nan)


def _legend(axes: Axes) -> None:
    """Beside the title, where no curve can be."""
    place = {"loc": "lower right", "bbox_to_anchor": (1.02, 1.0), "borderaxespad": 0.3}
    axes.legend(ncols=3, handlelength=1.2, columnspacing=1.2, handletextpad=0.5, **place)


def _limit(axes: Axes, shares: Values) -> None:
    """A range of at least a tenth: what is smaller is mostly chance, and should look small."""
    low, high = float(np.nanmin(shares)), float(np.nanmax(shares))
    missing = max(0.0, 0.1 - (high - low)) / 2 + 0.06 * (high - low)
    top = min(high + missing, 1.01)
    axes.set_ylim(max(0.0, min(low - missing, top - 0.1)), top)


def _percent(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.6g}%")
