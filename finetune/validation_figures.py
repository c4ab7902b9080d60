"""What an evaluation looks like: a reliability diagram, and which classes are taken for which."""

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from launch.atomic import write_atomically
from pretrain.accuracy import Accuracy
from pretrain.calibration import BINS, EDGES

_INK, _MUTED, _GRID, _BAR, _GAP = "#1c1c20", "#707078", "#dcdce2", "#3b6ea5", "#d9822b"
_MOST_NAMED = 30
_DOTS_PER_INCH = 150


def draw_reliability(path: Path, accuracy: Accuracy, title: str) -> None:
    """A PNG: above the accuracy of each bin of confidences, with its gap to what was said; below how many it holds."""
    found = accuracy.calibration
    held = found.images > 0
    centres = ((EDGES[:-1] + EDGES[1:]) / 2)[held]
    said, true = (values[held] / found.images[held] for values in (found.confidence, found.right))
    with matplotlib.rc_context({"font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(4.6, 5.4), dpi=_DOTS_PER_INCH, layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1.0))
        above.bar(centres, true, 0.92 / BINS, color=_BAR, label="accuracy")
        above.bar(centres, said - true, 0.3 / BINS, bottom=true, color=_GAP, label="from there to mean confidence")
        above.plot((0, 1), (0, 1), color=_MUTED, linewidth=1, linestyle="--")
        above.set_ylim(0, 1)
        above.set_ylabel("accuracy")
        above.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, frameon=False)
        _head(figure, f"{title}\nECE {accuracy.ece:.2%} ({BINS} bins)")
        below.bar(centres, found.images[held] / accuracy.images, 0.92 / BINS, color=_MUTED)
        below.set_ylabel("share of images")
        below.set_xlabel("confidence")
        below.set_xlim(0, 1)
        for axes in (above, below):
            _plain(axes)
            axes.grid(axis="y", color=_GRID, linewidth=0.8)
        _write(path, figure)


def draw_confusion(path: Path, accuracy: Accuracy, classes: tuple[str, ...], title: str) -> None:
    """A PNG of the confusion matrix: each row a true class, the shade its share that was taken for the column's class.

    Of up to 30 classes the names and percentages are written out. Classes without images are left out of the rows.
    """
    counts = accuracy.confusion.numpy()
    rows = np.flatnonzero(counts.sum(axis=1) > 0)
    columns = np.flatnonzero((counts.sum(axis=0) > 0) | (counts.sum(axis=1) > 0))
    shares = counts[np.ix_(rows, columns)] / counts[rows].sum(axis=1, keepdims=True)
    is_named = len(columns) <= _MOST_NAMED
    side = max(4.6, 2.2 + 0.38 * len(columns)) if is_named else 7.0
    norm = Normalize(0, 1) if is_named else PowerNorm(0.4, 0, 1)  # what is rare must show without its number
    with matplotlib.rc_context({"font.size": 8, "text.parse_math": False}):
        figure = Figure(
            figsize=(side, side * (0.55 + 0.45 * len(rows) / len(columns))), dpi=_DOTS_PER_INCH, layout="constrained"
        )
        axes = figure.subplots()
        picture = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest", aspect="auto")
        if is_named:
            axes.set_xticks(range(len(columns)), [_short(classes[one]) for one in columns], rotation=90)
            axes.set_yticks(range(len(rows)), [_short(classes[one]) for one in rows])
            for row, column in np.argwhere(shares >= 0.005).tolist():
                share = float(shares[row, column])
                text = f"{100 * share:.0f}"
                axes.text(column, row, text, ha="center", va="center", color="white" if share > 0.55 else _INK)
        else:
            axes.xaxis.set_major_formatter(_numbers(columns))
            axes.yaxis.set_major_formatter(_numbers(rows))
        axes.set_xlabel("taken for" if is_named else "taken for, number of the class")
        axes.set_ylabel("true class" if is_named else "true class, number")
        _head(figure, f"{title}\npercent of each true class")
        bar = figure.colorbar(picture, ax=axes, shrink=0.8)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
        _plain(axes)
        _write(path, figure)


def _head(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.02, ha="left", color=_INK, fontsize=10)


def _numbers(classes: NDArray[np.int64]) -> Callable[[float, float], str]:
    """Which class a place on an axis is."""
    return lambda place, _: str(classes[int(place)]) if place == int(place) and 0 <= place < len(classes) else ""


def _plain(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=_MUTED)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


def _write(path: Path, figure: Figure) -> None:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
