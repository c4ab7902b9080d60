"""From rounds of training steps to tables: medians, ratios within a round, and whether targets were met."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from loader_tables import Spread, aligned, spread
from mae_step_contenders import BASE, CONTENDERS, contender_named

Result = Mapping[str, Any]
"""What was measured of a model in a precision: a Setting's fields, and those of `time_rounds` with `memory`."""


class Target(NamedTuple):
    """At least `bound` times the speed of Transformers uncompiled or, for an `mfu`, of the matrix rate."""

    device: str
    model: str
    precision: str
    contender: str
    bound: float
    mfu: bool = False


TARGETS = (
    Target("cpu", "vit_base_patch16_224", "fp32", "sherd", 1.15),
    Target("cpu", "vit_base_patch16_224", "fp32", "sherd-compiled", 1.15),
    Target("cpu", "vit_base_patch16_224", "bf16", "sherd", 1.1),
    Target("cpu", "vit_base_patch16_224", "bf16", "sherd-compiled", 1.1),
    Target("cuda", "vit_base_patch16_224", "bf16", "sherd-compiled", 2.0),
    Target("cuda", "vit_large_patch16_224", "bf16", "sherd-compiled", 2.0),
    Target("cuda", "vit_large_patch16_224", "bf16", "sherd-compiled", 0.5, mfu=True),
)
_MOST_SPREAD = 1.3  # of the greatest over the least


def ratios(result: Result, name: str) -> list[float]:
    """How many times as fast as Transformers uncompiled, by round."""
    return [one[BASE] / one[name] for one in result["rounds"]]


def utilisations(result: Result, name: str) -> list[float]:
    """Model FLOPs utilisation by round: what the model needs, over what multiplying large matrices would reach."""
    possible = result["matrix_rate"] / (result["batch"] * result["flops_an_image"])
    return [1 / (one[name] * possible) for one in result["rounds"]]


def measured_table(result: Result) -> str:
    """One table: a step of each contender, its ratio to the base, its share of the peak and its peak memory."""
    rows = []
    for contender in CONTENDERS:
        name = contender.name
        if name not in result["rounds"][0]:
            continue
        seconds = median(one[name] for one in result["rounds"])
        memory = result["memory"][name]
        rows.append(
            [
                contender.title,
                f"{1e3 * seconds:,.1f}",
                f"{result['batch'] / seconds:,.1f}",
                spread(ratios(result, name)).text(),
                f"{median(utilisations(result, name)):.0%}",
                "-" if memory is None else f"{memory / 1e9:.2f}",
                f"{result['losses'][result['precision']][name]:.5f}",
            ]
        )
    on_gpu = result["device"] == "cuda"
    what, where = ("in all", "") if on_gpu else ("in a step", f" with {result['threads']} threads")
    heading = ["", "ms a step", "images/s", f"times {contender_named(BASE).title}", "MFU", f"GB {what}", "first loss"]
    return (
        f"{result['model']} at 224, batches of {result['batch']}, {result['precision']}, {result['device']}"
        f"{where}; {len(result['rounds'])} rounds of {result['steps']} steps, medians (least to greatest)\n"
        f"MFU: of {result['matrix_rate'] / 1e12:.3g} TFLOP/s that large matrices reach here, for the "
        f"{result['flops_an_image'] / 1e9:.1f} GFLOP that an image needs\n{aligned(heading, rows)}"
    )


def target_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Of each target that was measured: the median, whether it is enough, whether rounds differ too much to tell."""
    rows = []
    for target, found in _outcomes(results):
        is_met, is_noisy = found.median >= target.bound, found.greatest > _MOST_SPREAD * found.least
        rows.append({**target._asdict(), "measured": found.median, "met": is_met, "noisy": is_noisy})
    return rows


def target_table(results: Sequence[Result]) -> str:
    """What is asked for, what was measured, and whether that is enough: the median decides. Empty without any."""
    lines = []
    for (target, found), row in zip(_outcomes(results), target_rows(results), strict=True):
        verdict = "met" if row["met"] else "NOT MET"
        if row["noisy"]:
            verdict += ", but rounds differ too much to tell: measure on a quiet machine"
        asked = f"at least {target.bound:.0%} of the matrix rate" if target.mfu else f"at least {target.bound:g} times"
        asked += "" if target.mfu else f" {contender_named(BASE).title}"
        lines.append([contender_named(target.contender).title, target.model, target.precision, asked, found, verdict])
    cells = [[*line[:4], line[4].text(), line[5]] for line in lines]
    return f"targets\n{aligned(['', '', '', 'asked for', 'measured', ''], cells)}" if cells else ""


def _outcomes(results: Sequence[Result]) -> list[tuple[Target, Spread]]:
    found = []
    for target in TARGETS:
        for result in results:
            is_asked = (result["device"], result["model"], result["precision"]) == target[:3]
            if is_asked and target.contender in result["rounds"][0]:
                values = (utilisations if target.mfu else ratios)(result, target.contender)
                found.append((target, spread(values)))
    return found
