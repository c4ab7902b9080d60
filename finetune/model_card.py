"""The README.md of a published model: front matter as the Hub reads it, and what a person wants to know."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData, metadata_load
from jinja2 import Environment, StrictUndefined
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from yaml import YAMLError

from finetune.card_facts import (
    accuracies,
    class_names,
    data_name,
    how_it_was_made,
    hub_dataset,
    per_class,
    plain,
    results,
    settings,
    trained_with,
)
from finetune.classify_config import SCRATCH, ClassifyConfig
from finetune.finished_run import FinishedRun
from finetune.proof import Proof

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
    model: VisionTransformer
    proof: Proof
    licence: Licence


def find_licence(asked: str | None, run: FinishedRun) -> Licence:
    """The licence asked for, or that of the published model which training started from, or `other`.

    Raises:
        ValueError: the front matter of that model's README.md is damaged.
    """
    if asked is not None:
        return Licence(asked, "as stated by who published it")
    started_from = run.config.init if isinstance(run.config, ClassifyConfig) else SCRATCH
    card = Path(started_from) / "README.md"
    if started_from != SCRATCH and card.is_file():
        try:
            inherited = (metadata_load(card) or {}).get("license")
        except (ValueError, YAMLError) as error:
            raise ValueError(
                f"{card}: its front matter cannot be read for the licence that training started from "
                f"({' '.join(str(error).split())}); give --license"
            ) from error
        if inherited not in (None, _UNSTATED):
            return Licence(str(inherited), f"that of {plain(card.parent.name)}, which training started from")
    return Licence(
        _UNSTATED, "no licence was stated when this folder was written; ask its author before using the weights"
    )


def render_card(published: Published) -> str:
    """The whole README.md."""
    run, model, proof = published.run, published.model, published.proof
    encoder = run.exported.encoder
    attention = model.get_submodule("blocks.0.attn")
    assert isinstance(attention, Attention)
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    environment.filters["plain"] = plain
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        front_matter=_front_matter(published).to_yaml(),
        title=published.name,
        source=json.dumps(f"local-dir:{published.name}", ensure_ascii=False),
        licence=published.licence,
        name=encoder.name,
        parameters=f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        width=model.embed_dim,
        depth=len(model.blocks),
        heads=attention.num_heads,
        patches=encoder.patches,
        image_size=_by(encoder.image_size),
        patch_size=_by(encoder.patch_size),
        classes=run.exported.classes,
        class_names=class_names(run),
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
    if run.evaluation is not None:
        shares = {**accuracies(run.evaluation), "Mean over classes": run.evaluation.mean_class_accuracy}
        of: dict[str, Any] = {"dataset_type": hub or name, "dataset_name": name, "dataset_split": run.evaluation.split}
        measured = [
            EvalResult(task_type=task, metric_type="accuracy", metric_name=metric, metric_value=round(share, 6), **of)
            for metric, share in shares.items()
        ]
    return ModelCardData(
        library_name="timm",
        pipeline_tag=task,
        license=published.licence.identifier,
        tags=["timm", task, "vision-transformer", *([] if run.exported.classes else ["masked-autoencoder"])],
        datasets=None if hub is None else [hub],
        metrics=["accuracy"] if measured else None,
        model_name=published.name if measured else None,
        eval_results=measured or None,
    )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
