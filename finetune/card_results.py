"""What probe.py, validate.py and benchmark.py have measured of the model that is published, as its card tells it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from finetune.card_facts import Row, plain
from finetune.card_scores import Figure, Measured, Score, rounded, share_score
from finetune.finished_run import FinishedRun
from finetune.measured_model import another_model, check_measured
from finetune.report_comparisons import BenchmarkFile
from finetune.report_folders import BENCHMARK, PROBE, Folder, read_folder, read_known, sub_runs
from finetune.report_probe import ProbeFile
from launch.strict_json import read_json

_VALIDATION, _EVALUATION = "sherd-validation", "evaluation.json"
_HUB = "hf://datasets/"


@dataclass(frozen=True)
class Ends:
    """Both ends of bootstrap intervals, by the names of the figures; None for one that the file does not have."""

    level: float
    draws: int
    seed: int
    top1: tuple[float, float] | None = None
    top5: tuple[float, float] | None = None
    mean_class_accuracy: tuple[float, float] | None = None
    mean_average_precision: tuple[float, float] | None = None


@dataclass(frozen=True)
class ValidationResults:
    """Of the evaluation.json of finetune/validate.py what a card tells; the figures of one kind of labels are there."""

    model_sha256: str
    data: str
    split: str
    precision: str
    images: int
    undecodable: int
    intervals: Ends
    top1: float | None = None
    top5: float | None = None
    mean_class_accuracy: float | None = None
    mean_average_precision: float | None = None


_FIGURES = {
    "top1": "Top-1",
    "top5": "Top-5",
    "mean_class_accuracy": "Mean over classes",
    "mean_average_precision": "Mean average precision",
}


def read_results(folders: Sequence[str], run: FinishedRun) -> tuple[Measured, ...]:
    """What these folders hold, in their order.

    Raises:
        ValueError: one holds no results, those of another model, or older ones than the model; begins with `--results`.
    """
    return tuple(_read(folder, run) for folder in folders)


def _read(where: str, run: FinishedRun) -> Measured:
    path, said = Path(where), f"--results {where}"
    evaluation = read_json(path / _EVALUATION) if (path / _EVALUATION).is_file() else {}
    if evaluation.get("format") == _VALIDATION:
        found = _known(ValidationResults, path / _EVALUATION, said)
        if found.model_sha256 != run.exported.sha256:
            raise ValueError(another_model(said, f"weights with the SHA-256 {found.model_sha256[:16]}", run))
        return _of_validation(found, run)
    kinds: dict[str, Callable[[Folder, str, FinishedRun], Measured]] = {PROBE: _of_probe, BENCHMARK: _of_benchmark}
    for file, read in kinds.items():
        if (path / file).is_file():
            folder = read_folder(where)
            return read(folder, said, run)
    raise ValueError(
        f"{said}: expected a folder that finetune/probe.py, finetune/validate.py or finetune/benchmark.py has "
        f"finished, found none of {PROBE}, {_EVALUATION} of a validation and {BENCHMARK}"
    )


def _known(kind: type, path: Path, said: str) -> Any:
    try:
        return read_known(kind, path)
    except ValueError as error:
        raise ValueError(f"{said}: {error}; measure again, or leave this folder out") from error


def _of_validation(found: ValidationResults, run: FinishedRun) -> Measured:
    values = {name: value for name in _FIGURES if (value := getattr(found, name)) is not None}
    if run.exported.classes <= 5:
        values.pop("top5", None)  # of five classes it says nothing
    ends = found.intervals
    rows, scores = [], []
    for name, value in values.items():
        between = getattr(ends, name)
        told = "" if between is None else f" ({100 * ends.level:g} % between {between[0]:.2%} and {between[1]:.2%})"
        rows.append((_FIGURES[name], f"{value:.2%}{told}"))
        interval = {} if between is None else {"confidence_interval": rounded(between), "level": ends.level}
        details = {**interval, "method": "bootstrap", "images": found.images, "seed": ends.seed}
        figure: Figure = "mean_average_precision" if name == "mean_average_precision" else "accuracy"
        scores.append(Score(_FIGURES[name], round(value, 6), details, figure))
    data = _data_name(found.data)
    left_out = f"; {found.undecodable:,} more do not decode" if found.undecodable else ""
    text = (
        f"This model by `finetune/validate.py` in {found.precision}, on {found.images:,} images of {plain(data)}, "
        f"split {plain(found.split)}, each once{left_out}:"
    )
    return Measured(text, tuple(rows), data, found.split, tuple(scores))


def _of_probe(folder: Folder, said: str, run: FinishedRun) -> Measured:
    found = _known(ProbeFile, folder.path / PROBE, said)
    check_measured(folder, said, run, str(folder.config.get("init")), found.model_sha256)
    knn, linear = f"k-NN top-1, {found.knn.neighbours} neighbours", f"Linear top-1, {found.linear.method}"
    compared = found.knn.held_out_images or found.held_out_images
    scores = [
        share_score(knn, found.knn.top1, compared, found.seed),
        share_score(linear, found.linear.top1, found.held_out_images, found.seed),
    ]
    rows = [(plain(score.name), score.with_interval) for score in scores]
    if found.few_shot is not None:
        for one in found.few_shot.results:
            name = f"Top-1, logistic regression on {one.shots:,} images a class"
            spread = "" if one.deviation is None else f" ± {100 * one.deviation:.2f}"
            rows.append((name, f"{one.mean:.2%}{spread} over {found.few_shot.draws} draws"))
            details = {"draws": found.few_shot.draws, "seed": found.seed, "images": found.held_out_images}
            if one.deviation is not None:
                details["standard_deviation"] = round(one.deviation, 6)
            scores.append(Score(name, round(one.mean, 6), details))
    data = _data_name(found.data)
    text = (
        f"Frozen features ({plain(found.features)}) by `finetune/probe.py`: learnt from {found.train_images:,} images "
        f"of {plain(data)}, split {plain(found.split)}, measured on {found.held_out_images:,} of split "
        f"{plain(found.held_out)}, seed {found.seed}:"
    )
    return Measured(text, tuple(rows), data, found.held_out, tuple(scores))


def _of_benchmark(folder: Folder, said: str, run: FinishedRun) -> Measured:
    found = _known(BenchmarkFile, folder.path / BENCHMARK, said)
    check_measured(folder, said, run, found.init, found.model_sha256)
    trained = sub_runs(folder)
    split = str(trained[0].config["held_out"]) if trained and "held_out" in trained[0].config else None
    rows: list[Row] = []
    scores: list[Score] = []
    for row in found.rows:
        labels = "all labels" if row.labels is None else f"{row.labels:,} labels a class"
        for start, training in (("fine-tuned from this model", row.pretrained), ("from scratch", row.scratch)):
            finite = [] if training is None else [top1 for top1 in training.top1 if top1 is not None]
            if training is None or not finite:
                continue
            which = [str(seed) for seed, top1 in enumerate(training.top1) if top1 is not None]
            failed = len(training.top1) - len(finite)
            seeds = f"seed{'s' * (len(finite) != 1)} {', '.join(which)}" + (f"; {failed} more failed" if failed else "")
            deviation = f" ± {100 * stdev(finite):.2f}" if len(finite) > 1 else ""
            rows.append((f"Top-1, {labels}, {start}", f"{mean(finite):.2%}{deviation}, {seeds}"))
            if start != "from scratch":
                scores.append(Score(f"Top-1, fine-tuned, {labels}", round(mean(finite), 6), _seeds(training.top1)))
    data = _data_name(found.data)
    text = (
        f"A classifier fine-tuned from this model against the same trained from scratch, by `finetune/benchmark.py` on "
        f"{plain(data)}{'' if split is None else f', split {plain(split)}'}; ± is the deviation over seeds:"
    )
    return Measured(text, tuple(rows), data, split, tuple(scores))


def _seeds(top1: Sequence[float | None]) -> dict[str, Any]:
    finite = {seed: value for seed, value in enumerate(top1) if value is not None}
    spread = {"standard_deviation": round(stdev(finite.values()), 6)} if len(finite) > 1 else {}
    return {"seeds": list(finite), "values": [round(value, 6) for value in finite.values()], **spread}


def _data_name(where: str) -> str:
    """A dataset's name on the Hub, otherwise that of its folder."""
    return where.removeprefix(_HUB).partition("@")[0] if where.startswith(_HUB) else Path(where).name
