"""What a report shows of any training run: its curves, its speed, its reconstructions, how it was set up."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune.report_blocks import Block, Caption, Note, Picture, Plot, Properties
from finetune.report_facts import ACCURACIES, gather_facts, number
from finetune.report_figures import (
    Curve,
    accuracy_curves,
    agreement_curve,
    averaging,
    throughput,
    training_curves,
)
from finetune.report_folders import Folder
from finetune.report_pictures import png_file
from launch.console import format_rate
from launch.run_folder import RunFolder
from launch.strict_json import differences

_CURVES = ("top1", "mean_class_accuracy", "knn_top1", "linear_top1")
_PARTS = {"teacher_loss": "the teacher's part", "class_distance": "class token", "patch_distance": "patches"}
"""What of a loss may be logged by itself, at most two of them in a run, and how it is called where people read it."""
_LABELS = {**ACCURACIES, **_PARTS, "data_wait": "data wait"}


def curve_blocks(folder: Folder, anchor: str) -> list[Block]:
    """Loss and learning rate, and the accuracies, over epochs."""
    source = (f"{folder.name}/metrics.jsonl",)
    blocks: list[Block] = []
    training, evaluations = folder.training, folder.evaluations
    if training:
        loss, rate = _curve(training, "loss"), _curve(training, "lr")
        parts = [_curve(training, name) for name in _PARTS if _is_told(training, name)]
        what = "Training loss" + (" (of mixed images and labels)" if _mixes(folder.config) else "")
        if parts:
            what += f", {' and '.join(part.label for part in parts)} in it before weighing,"
            loss = Curve("whole", loss.x, loss.y)
        text = f"{what} and learning rate over {_epochs(loss.x[-1])}{_averaged(len(training))}."
        blocks.append(Plot(training_curves(f"{anchor}-loss", loss, rate, parts), text, Caption(text, source)))
    else:
        blocks.append(Note("metrics.jsonl holds no training step yet: no loss curve."))
    curves = [_curve(evaluations, name) for name in _CURVES if _is_told(evaluations, name)]
    if curves:
        last = ", ".join(f"{curve.label} {curve.y[-1]:.1%}" for curve in curves)
        split = folder.config.get("held_out", "held-out")
        times = "once" if len(evaluations) == 1 else f"{len(evaluations)} times"
        text = f"Accuracy on the split “{split}”, evaluated {times}; at the end {last}."
        blocks.append(Plot(accuracy_curves(f"{anchor}-accuracy", curves), text, Caption(text, source)))
    elif training:
        blocks.append(Note("metrics.jsonl holds no accuracy (yet, or no labelled held-out split): no accuracy curve."))
    if _is_told(training, "agreement"):
        agreement = _curve(training, "agreement")
        text = (
            "How often student and teacher find the same class likeliest, of the images of a training step as they are "
            f"shown; at the end {agreement.y[-1]:.1%}{_averaged(len(training))}."
        )
        blocks.append(Plot(agreement_curve(f"{anchor}-agreement", agreement), text, Caption(text, source)))
    return blocks


def throughput_blocks(folder: Folder, anchor: str) -> list[Block]:
    """Images a second and the share of the time that training waits for data, over epochs."""
    training, facts = folder.training, gather_facts(folder)
    if facts.images_per_second is None:
        return [Note("metrics.jsonl holds no rates: no throughput.")]
    text = f"Images a second over all processes (median {format_rate(facts.images_per_second)})"
    if facts.data_wait is not None:
        text += f", and the share of the time in which training waits for data (mean {facts.data_wait:.1%})"
    teacher = None
    if facts.teacher is not None:
        teacher = _curve(training, "teacher")
        text += f" and in which the teacher computes (mean {facts.teacher:.1%})"
    if facts.memory is not None:
        text += f". Peak memory {facts.memory / 1e9:.2f} GB"
    svg = throughput(anchor, _curve(training, "images_per_second"), _curve(training, "data_wait"), teacher)
    text += f"{_averaged(len(training))}."
    return [Plot(svg, text, Caption(text, (f"{folder.name}/metrics.jsonl",)))]


def reconstruction_blocks(folder: Folder, _: str) -> list[Block]:
    """The newest panel of originals, masked images and reconstructions."""
    panels = sorted(RunFolder(folder.path).figures.glob("reconstruction-*.png"))
    if not panels:
        return [Note("figures/ holds no reconstruction yet: one is drawn at every evaluation.")]
    newest = panels[-1]
    text = "Originals, what the encoder sees of them, and what the decoder makes of it"
    text += f"; the newest of {len(panels)} panels." if len(panels) > 1 else "."
    source = f"{folder.name}/figures/{newest.name}"
    return [Picture(png_file(newest), text, Caption(text, (source,)), is_paper=True)]


def property_blocks(folder: Folder, _: str) -> list[Block]:
    """config.json and environment.json, folded."""
    blocks: list[Block] = []
    for title, content, file in (
        ("Settings", folder.config, "config.json"),
        ("Environment", folder.environment, "environment.json"),
    ):
        if content:
            blocks.append(Properties(title, flat_rows(content), f"{folder.name}/{file}"))
        else:
            blocks.append(Note(f"{file} is not there: no {title.lower()}."))
    return blocks


def flat_rows(content: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Nested settings as (dotted name, value) in their order."""
    return tuple((name, _value(value)) for name, _, value in differences({}, content))


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return " ".join(map(str, value))
    return json.dumps(value)


def _curve(lines: list[dict[str, Any]], name: str) -> Curve:
    x, y = (np.array([number(line.get(field)) for line in lines]) for field in ("epoch", name))
    return Curve(_LABELS.get(name, name), x, y)


def _is_told(lines: list[dict[str, Any]], name: str) -> bool:
    """Whether any line has it, as a number."""
    return bool(np.isfinite(_curve(lines, name).y).any())


def _epochs(count: float) -> str:
    return "1 epoch" if count == 1 else f"{count:.4g} epochs"


def _averaged(points: int) -> str:
    size = averaging(points)
    return f"; each point is the mean of {size} logged lines" if size > 1 else ""


def _mixes(config: Mapping[str, Any]) -> bool:
    mixing = config.get("mixing")
    return isinstance(mixing, dict) and any(number(mixing.get(name)) > 0 for name in ("mixup", "cutmix"))
