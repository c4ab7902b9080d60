"""The pictures of a model card, as PNG files beside it that are the same bytes whenever they are drawn."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from finetune.card_facts import data_name, plain
from finetune.finished_run import FinishedRun
from finetune.report_facts import ACCURACIES, number
from finetune.report_figures import Curve, averaging, axes_style
from pretrain.mae_config import MaeConfig

FIGURES = "figures"
_CURVES, _PANEL = "curves.png", "reconstruction.png"
_PNG = b"\x89PNG\r\n\x1a\n"
_LOSSES = {
    "loss": "whole",
    "teacher_loss": "the teacher's part",
    "class_distance": "class token",
    "patch_distance": "patches",
}
_MEASURES = {"mean_average_precision": "mean average precision", **ACCURACIES}
_DRAWN = ("mean_average_precision", "top1", "knn_top1", "linear_top1")
# Of the Okabe-Ito palette, which those who do not see all colours tell apart as well.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_INK, _MUTED, _GRID = "#1b1b1f", "#5f6068", "#e3e3e8"
_STYLE = {
    **axes_style(_INK, _MUTED, _GRID),
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "lines.linewidth": 1.8,
}
_WIDTH, _HEIGHT, _DOTS = 7.0, 3.0, 200  # inches, and dots in one: sharp where a page shows it 700 pixels wide


@dataclass(frozen=True)
class CardFigure:
    """A picture's place in the model folder, what it shows in words for who cannot see it, and the line below it."""

    file: str
    alt: str
    caption: str


def write_figures(run: FinishedRun, folder: Path, pictures: bool) -> tuple[CardFigure, ...]:
    """Draw what a card shows into `figures/` of a model folder; without `pictures` nothing that images can be seen in.

    Raises:
        ValueError: the run's own picture of reconstructions is no PNG file.
    """
    drawn = {}
    lines = run.folder.read_metrics()
    losses = [curve for name, label in _LOSSES.items() if (curve := _curve(lines, name, label)) is not None]
    measures = [curve for name in _DRAWN if (curve := _curve(lines, name, _MEASURES[name])) is not None]
    if losses:
        drawn[_CURVES] = _about_curves(losses, measures)
    panel = _newest_panel(run) if pictures else None
    if panel is not None:
        drawn[_PANEL] = _about_panel(run)
    if drawn:
        (folder / FIGURES).mkdir()
    if losses:
        _draw(folder / FIGURES / _CURVES, losses, _often(measures))
    if panel is not None:
        (folder / FIGURES / _PANEL).write_bytes(_content(panel))
    return tuple(CardFigure(f"{FIGURES}/{name}", *told) for name, told in drawn.items())


def _curve(lines: list[dict[str, Any]], name: str, label: str) -> Curve | None:
    """What the log has under a name, over epochs; None where it has no number there."""
    points = [(line["epoch"], value) for line in lines if math.isfinite(value := number(line.get(name)))]
    return Curve(label, *np.array(points, np.float64).T) if points else None


def _about_curves(losses: list[Curve], measures: list[Curve]) -> tuple[str, str]:
    loss = losses[0]
    count = f"{loss.x[-1]:.3g}" if loss.x[-1] < 100 else f"{loss.x[-1]:,.0f}"
    epochs = f"{count} epoch{'s' * (count != '1')}"
    alt = f"Curves over {epochs}: the training loss goes from {loss.y[0]:.3g} to {loss.y[-1]:.3g}"
    alt += "".join(f"; {curve.label} ends at {curve.y[-1]:.1%}" for curve in measures)
    parts = ", its parts before weighing" if len(losses) > 1 else ""
    caption = f"Training loss{parts}{' and what was evaluated' if _often(measures) else ''}, over {epochs}."
    return plain(alt), caption


def _often(measures: list[Curve]) -> list[Curve]:
    """Those that are more than one point: a result alone is no curve."""
    return [curve for curve in measures if len(curve.x) > 1]


def _about_panel(run: FinishedRun) -> tuple[str, str]:
    assert isinstance(run.config, MaeConfig)
    hidden = f"{100 * run.config.objective.mask_ratio:g} %"
    is_held_out = run.held_out.split == run.config.held_out
    which = "held-out images" if is_held_out else "training images"
    alt = f"A few {which}, what the encoder sees of them with {hidden} hidden, and what the decoder makes of that"
    data = plain(data_name(run.manifest))
    return alt, f"{which.capitalize()} of {data} with {hidden} of their patches hidden, and their reconstructions."


def _newest_panel(run: FinishedRun) -> Path | None:
    """The picture of the last epoch that a masked autoencoder was looked at in."""
    if not isinstance(run.config, MaeConfig):
        return None
    return max(run.folder.figures.glob("reconstruction-epoch-*.png"), default=None)


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(_PNG):
        raise ValueError(f"{path}: not a PNG file; remove it, and the card shows no reconstructions")
    return content


def _draw(path: Path, losses: list[Curve], measures: list[Curve]) -> None:
    """Loss on the left; what was evaluated, if anything, on the right."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(
            figsize=(_WIDTH if measures else 0.7 * _WIDTH, _HEIGHT), dpi=_DOTS, layout="constrained", facecolor="white"
        )
        panels = figure.subplots(1, 2 if measures else 1, squeeze=False)[0]
        # strict=False: there are more colours than curves, and without measures one panel.
        for curve, colour in zip(losses, _COLOURS, strict=False):
            x, y = _means(curve)
            panels[0].plot(x, y, color=colour, label=curve.label, marker="o" if len(x) < 3 else None)
        panels[0].set_title("training loss")
        for curve, colour in zip(measures, _COLOURS, strict=False):
            panels[1].plot(curve.x, curve.y, color=colour, label=curve.label, marker="o", markersize=4)
        if measures:
            panels[1].set_title("evaluation")
            panels[1].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.6g} %")
            panels[1].yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
            _widen(panels[1], measures)
        for axes, curves in zip(panels, (losses, measures), strict=False):
            axes.set_xlabel("epoch")
            axes.set_xlim(left=0)
            if len(curves) > 1 or curves is measures:
                axes.legend(fontsize=9)
        figure.savefig(path, format="png", metadata={"Software": None})


def _means(curve: Curve) -> tuple[Any, Any]:
    """The curve, or where it has more points than can be seen the means of neighbours."""
    size = averaging(len(curve.x))
    cuts = range(0, len(curve.x), size)
    return [curve.x[cut : cut + size].mean() for cut in cuts], [curve.y[cut : cut + size].mean() for cut in cuts]


def _widen(axes: Axes, curves: list[Curve]) -> None:
    """Show a tenth at least: a smaller difference is mostly chance, and should look small."""
    values = np.concatenate([curve.y for curve in curves])
    low, high = float(values.min()), float(values.max())
    spare = max(0.0, 0.1 - (high - low)) / 2 + 0.06 * (high - low)
    axes.set_ylim(max(0.0, low - spare), min(1.01, high + spare))
