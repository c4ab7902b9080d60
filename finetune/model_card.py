"""The README.md of a published model: front matter as the Hub reads it, and what a person wants to know."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData, metadata_load
from jinja2 import Environment, StrictUndefined
from timm.layers.attention import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from yaml import YAMLError

from finetune.card_facts import (
    class_names,
    data_name,
    headline,
    hub_dataset,
    is_by_class_token,
    model_name,
    per_class,
    plain,
    results,
)
from finetune.card_training import how_it_was_made, settings, teacher_name, trained_with
from finetune.finished_run import FinishedRun
from finetune.proof import Proof
from finetune.report_multi_label import MultiLabelFile
from pretrain.architectures import is_plain
from pretrain.mae_config import MaeConfig
from pretrain.students import has_distillation_head
from pretrain.supervised_config import SCRATCH, SupervisedConfig

_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
_UNSTATED = "other"


@dataclass(frozen=True)
class Licence:
    """The licence in the Hub's spelling, and who says so."""

    identifier: str
    reason: str


@dataclass(frozen=True)
class Published:
    """All that a card tells of; `name` is that of the model folder, `model` holds the run's own weights."""

    name: str
    run: FinishedRun
    model: nn.Module
    proof: Proof
    licence: Licence


def find_licence(asked: str | None, run: FinishedRun) -> Licence:
    """The licence asked for, or that of the published model which training started from, or `other`.

    Raises:
        ValueError: the front matter of that model's README.md is damaged.
    """
    if asked is not None:
        return Licence(asked, "as stated by who published it")
    card = Path(run.started_from) / "README.md"
    if run.started_from != SCRATCH and card.is_file():
        try:
            inherited = (metadata_load(card) or {}).get("license")
        except (ValueError, YAMLError) as error:
            raise ValueError(
                f"{card}: its front matter cannot be read for the licence that training started from "
                f"({' '.join(str(error).split())}); give --license"
            ) from error
        if inherited not in (None, _UNSTATED):
            return Licence(str(inherited), f"that of {model_name(run.started_from)}, which training started from")
    return Licence(
        _UNSTATED, "no licence was stated when this folder was written; ask its author before using the weights"
    )


def render_card(published: Published) -> str:
    """The whole README.md."""
    run, model, proof = published.run, published.model, published.proof
    backbone = run.exported.backbone
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    environment.filters["plain"] = plain
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        front_matter=_front_matter(published).to_yaml(),
        title=published.name,
        source=json.dumps(f"local-dir:{published.name}", ensure_ascii=False),
        licence=published.licence,
        kind=_kind(model),
        architecture=_architecture(published),
        parameters=f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        width=getattr(model, "num_features", 0),
        patches=math.prod(backbone.plain.grid) if is_plain(backbone) else 0,
        image_size=_by(backbone.size),
        classes=run.exported.classes,
        has_two_heads=has_distillation_head(model),
        is_taught=run.teacher is not None,
        by_class_token=is_by_class_token(run),
        several=isinstance(run.config, SupervisedConfig) and run.config.label_field is not None,
        class_names=class_names(run),
        teacher=teacher_name(run),
        made=how_it_was_made(run),
        settings=settings(run),
        results=results(run),
        per_class=per_class(run),
        trained_with=trained_with(run),
        proof=proof,
        data=data_name(run.manifest),
        is_held_out=proof.split != run.config.split,
        proven_with=", ".join(f"{name} {version}" for name, version in proof.versions.items()),
    )


def _front_matter(published: Published) -> ModelCardData:
    run = published.run
    task = "image-classification" if run.exported.classes else "image-feature-extraction"
    hub, name = hub_dataset(run.manifest), data_name(run.manifest)
    measured: list[EvalResult] = []
    kind = "mean_average_precision" if isinstance(run.evaluation, MultiLabelFile) else "accuracy"
    if run.evaluation is not None:
        shares = headline(run.evaluation)
        of: dict[str, Any] = {"dataset_type": hub or name, "dataset_name": name, "dataset_split": run.evaluation.split}
        measured = [
            EvalResult(task_type=task, metric_type=kind, metric_name=metric, metric_value=round(share, 6), **of)
            for metric, share in shares.items()
        ]
    return ModelCardData(
        library_name="timm",
        pipeline_tag=task,
        license=published.licence.identifier,
        tags=[
            "timm",
            task,
            *(["vision-transformer"] if _has_known_blocks(published) else []),
            *(["masked-autoencoder"] if isinstance(run.config, MaeConfig) else []),
            *([] if run.teacher is None else ["knowledge-distillation"]),
        ],
        datasets=None if hub is None else [hub],
        metrics=[kind] if measured else None,
        model_name=published.name if measured else None,
        eval_results=measured or None,
    )


def _kind(model: nn.Module) -> str:
    """What a person calls it."""
    return "vision transformer" if isinstance(model, VisionTransformer) else "network"


def _has_known_blocks(published: Published) -> bool:
    """Whether it is a plain vision transformer, or one that has a distillation token as well."""
    return is_plain(published.run.exported.backbone) or isinstance(published.model, VisionTransformerDistilled)


def _architecture(published: Published) -> str:
    """timm's name and what was changed in it, as a clause."""
    backbone, model = published.run.exported.backbone, published.model
    arguments = ", ".join(f"`{argument}`" for argument in backbone.arguments)
    if not _has_known_blocks(published):
        return f"`{backbone.name}` ({type(model).__name__}){f' with {arguments}' if arguments else ''},"
    assert isinstance(model, VisionTransformer)
    attention = model.get_submodule("blocks.0.attn")
    assert isinstance(attention, Attention)
    return (
        f"`{backbone.name}` with {f'{arguments}, ' if arguments else ''}{len(model.blocks)} blocks of width "
        f"{model.embed_dim}, {attention.num_heads} heads and patches of {_by(backbone.plain.patch_size)} pixels,"
    )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
