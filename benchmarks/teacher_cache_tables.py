"""From rounds of distillation runs to a table: rates, ratios within a round, what a cache takes, how losses differ."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from loader_tables import aligned, spread
from teacher_cache_runs import CONTENDERS, Round, Setting

_BASE = CONTENDERS[0]


def summary(rounds: Sequence[Round]) -> dict[str, dict[str, Any]]:
    """Of each contender, for JSON.

    images_per_second: median of rounds. speed_up: median, least and greatest of ratios within a round.
    filling_seconds, bytes: of its cache. loss_difference: the greatest from that without a cache, over all logged
    steps of all rounds, and how large the loss without one is there.
    """
    return {
        name: {
            "images_per_second": median(one[name]["images_per_second"] for one in rounds),
            "speed_up": spread([_rate(one, name) / _rate(one, _BASE) for one in rounds])._asdict(),
            "filling_seconds": max((one[name]["filling_seconds"] or 0.0 for one in rounds), default=0.0) or None,
            "bytes": rounds[0][name]["bytes"],
            **_difference(rounds, name),
        }
        for name in CONTENDERS
    }


def table(setting: Setting, rounds: Sequence[Round]) -> str:
    """For people."""
    titles = {"none": "without a cache", "all": "all logits", "kept": f"{setting.kept} largest"}
    rows = []
    for name, found in summary(rounds).items():
        ratios = spread([_rate(one, name) / _rate(one, _BASE) for one in rounds])
        is_cached = found["bytes"] is not None
        rows.append(
            [
                titles[name],
                f"{found['images_per_second']:,.0f}",
                ratios.text(),
                f"{found['filling_seconds']:,.1f}" if found["filling_seconds"] is not None else "-",
                f"{found['bytes']:,}" if is_cached else "-",
                f"{found['loss_difference']:.2g} of {found['loss']:.3g}" if is_cached else "-",
            ]
        )
    heading = ["", "images/s", "times without", "s to fill it", "bytes", "losses differ by at most"]
    count = len(rounds[0][_BASE]["losses"])
    return (
        f"{setting.recipe}, {setting.kind} distillation, {setting.epochs} epochs of {setting.epochs} views, "
        f"{setting.precision}, seed {setting.seed}; {len(rounds)} rounds, medians (least to greatest); losses of "
        f"{count} logged steps\n{aligned(heading, rows)}"
    )


def _rate(one: Round, name: str) -> float:
    return one[name]["images_per_second"]


def _difference(rounds: Sequence[Round], name: str) -> dict[str, float]:
    pairs = [(one[name]["losses"][step], loss) for one in rounds for step, loss in one[_BASE]["losses"].items()]
    worst, without = max(pairs, key=lambda pair: abs(pair[0] - pair[1]))
    return {"loss_difference": abs(worst - without), "loss": without}
