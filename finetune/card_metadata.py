"""The front matter of a model card, as the Hub reads it: what the model is, under which licence, how good it is."""

from collections.abc import Iterator
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from finetune.card_facts import data_name, headline, hub_datasets, nearest_neighbours
from finetune.card_scores import Figure, Measured, Score, rounded
from finetune.finished_run import FinishedRun
from finetune.licences import Licence
from finetune.report_accuracy import EvaluationFile
from finetune.report_multi_label import MultiLabelFile
from pretrain.mae_config import MaeConfig


def front_matter(
    name: str, run: FinishedRun, licence: Licence, measured: tuple[Measured, ...], *, library: str, is_transformer: bool
) -> ModelCardData:
    """Of a model of this name; `measured` is what was measured elsewhere, `library` the one that loads it."""
    task = "image-classification" if run.exported.classes else "image-feature-extraction"
    entries = [*_own_entries(run, task), *(entry for one in measured for entry in _entries(one, task))]
    base = licence.base_model
    relation: dict[str, Any] = {} if base is None else {"base_model_relation": "finetune"}
    is_other = licence.identifier == "other"
    return ModelCardData(
        base_model=base,
        library_name=library,
        pipeline_tag=task,
        license=licence.identifier,
        license_name=licence.name if is_other else None,
        license_link=licence.link if is_other else None,
        tags=[
            library,
            task,
            *(["vision-transformer"] if is_transformer else []),
            *(["masked-autoencoder"] if isinstance(run.config, MaeConfig) else []),
            *([] if run.teacher is None else ["knowledge-distillation"]),
        ],
        datasets=list(hub_datasets(run.manifest)) or None,
        metrics=list(dict.fromkeys(entry.metric_type for entry in entries)) or None,
        model_name=name if entries else None,
        eval_results=entries or None,
        **relation,
    )


def _own_entries(run: FinishedRun, task: str) -> list[EvalResult]:
    """What the run itself has measured of its model; the seed is that of the training."""
    found, data = run.evaluation, data_name(run.manifest)
    kind = next(iter(hub_datasets(run.manifest)), data)
    if found is None:
        neighbours = nearest_neighbours(run)
        scores = () if neighbours is None else neighbours.scores
        split = "" if neighbours is None else neighbours.split
    else:
        scores, split = _of_evaluation(found, run.config.seed), found.split
    return [_entry(score, task, dataset_type=kind, dataset_name=data, dataset_split=split) for score in scores]


def _of_evaluation(found: EvaluationFile | MultiLabelFile, seed: int) -> list[Score]:
    if isinstance(found, MultiLabelFile):
        figure: Figure = "mean_average_precision"
        ends = {} if found.intervals is None else dict.fromkeys(headline(found), found.intervals.mean_average_precision)
    else:
        figure, own = "accuracy", found.intervals
        ends = {}
        if own is not None:
            ends = {"Top-1": own.top1, "Top-5": own.top5, "Mean over classes": own.mean_class_accuracy}
    scores = []
    for name, share in headline(found).items():
        sure: dict[str, Any] = {}
        if name in ends and found.intervals is not None:
            sure = {"confidence_interval": rounded(ends[name]), "level": found.intervals.level, "method": "bootstrap"}
        scores.append(Score(name, round(share, 6), {**sure, "images": found.images, "seed": seed}, figure))
    return scores


def _entries(measured: Measured, task: str) -> Iterator[EvalResult]:
    """What was measured elsewhere: features as such, or a classifier that was made of them."""
    of: dict[str, Any] = {"dataset_type": measured.data, "dataset_name": measured.data, "dataset_split": measured.split}
    return (_entry(score, task, **of) for score in measured.scores)


def _entry(score: Score, task: str, **data: Any) -> EvalResult:
    return EvalResult(
        task_type=task,
        metric_type=score.figure,
        metric_name=score.name,
        metric_value=score.value,
        metric_args=score.details,
        **data,
    )
