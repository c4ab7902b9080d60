"""The README.md of a published model: front matter as the Hub reads it, and what a person wants to know."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from jinja2 import Environment, StrictUndefined
from timm.layers.attention import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from finetune.card_compute import compute_facts
from finetune.card_data import data_facts
from finetune.card_facts import class_names, data_name, per_class, plain, results
from finetune.card_figures import CardFigure
from finetune.card_metadata import front_matter
from finetune.card_scores import Measured
from finetune.card_training import how_it_was_made, settings, teacher_name, trained_with
from finetune.finished_run import FinishedRun
from finetune.licences import Licence
from finetune.proof import OUTPUTS, Proof, whose
from finetune.snippets import Snippet
from pretrain.architectures import is_plain
from pretrain.mae_config import MaeConfig
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.students import has_distillation_head
from pretrain.supervised_config import SupervisedConfig

_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")

Library = Literal["timm", "transformers"]


@dataclass(frozen=True)
class Published:
    """All that a card tells of; `name` is that of the model folder, `model` holds the run's own weights."""

    name: str
    run: FinishedRun
    model: nn.Module
    proof: Proof
    licence: Licence
    library: Library = "timm"
    figures: tuple[CardFigure, ...] = ()
    measured: tuple[Measured, ...] = ()
    snippet: Snippet | None = None
    is_on_hub: bool = False
    shares_images: bool = True

    @cached_property
    def is_transformer(self) -> bool:
        """Whether it is a plain vision transformer, or one that has a distillation token as well."""
        return is_plain(self.run.exported.backbone) or isinstance(self.model, VisionTransformerDistilled)


def render_card(published: Published) -> str:
    """The whole README.md."""
    run, model, proof = published.run, published.model, published.proof
    backbone = run.exported.backbone
    metadata = front_matter(
        published.name,
        run,
        published.licence,
        published.measured,
        library=published.library,
        is_transformer=published.is_transformer,
    )
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    environment.filters["plain"] = plain
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        front_matter=metadata.to_yaml(),
        title=published.name,
        licence=published.licence,
        kind=_kind(model),
        architecture=_architecture(published),
        parameters=f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        layout=proof.layout,
        hidden=_hidden(run) if isinstance(model, MaskedAutoencoder) else None,
        images=_images(run),
        image_size=_by(backbone.size),
        classes=run.exported.classes,
        has_two_heads=has_distillation_head(model),
        is_taught=run.teacher is not None,
        several=isinstance(run.config, SupervisedConfig) and run.config.label_field is not None,
        class_names=class_names(run),
        teacher=teacher_name(run),
        made=how_it_was_made(run),
        settings=settings(run),
        results=results(run),
        per_class=per_class(run),
        trained_with=trained_with(run),
        compute=compute_facts(run),
        dataset=data_facts(run.manifest),
        figures=published.figures,
        measured=published.measured,
        proof=proof,
        proof_library=proof.library,
        whose=whose(proof.library),
        compared=OUTPUTS[proof.compared],
        snippet=published.snippet,
        is_on_hub=published.is_on_hub,
        shares_images=published.shares_images,
        data=data_name(run.manifest),
        is_held_out=proof.split != run.config.split,
        proven_with=", ".join(f"{name} {version}" for name, version in proof.versions.items()),
    )


def _images(run: FinishedRun) -> str:
    """What is shown to the model."""
    split = run.manifest.split(run.config.split)
    if (split.channels, split.dtype) == (3, "uint8"):
        return "RGB images"
    return f"images of {split.channels:,} {'channel' if split.channels == 1 else 'channels'} ({split.dtype})"


def _kind(model: nn.Module) -> str:
    """What a person calls it."""
    if isinstance(model, MaskedAutoencoder):
        return "masked autoencoder"
    return "vision transformer" if isinstance(model, VisionTransformer) else "network"


def _hidden(run: FinishedRun) -> str:
    """The share of the patches that an autoencoder predicts."""
    assert isinstance(run.config, MaeConfig)
    return f"{run.config.objective.mask_ratio:.0%}"


def _architecture(published: Published) -> str:
    """timm's name and what was changed in it, as a clause."""
    backbone, model = published.run.exported.backbone, published.model
    arguments = ", ".join(f"`{argument}`" for argument in backbone.arguments)
    if not published.is_transformer:
        return f"`{backbone.name}` ({type(model).__name__}){f' with {arguments}' if arguments else ''},"
    decoder, config = "", published.run.config
    if isinstance(model, MaskedAutoencoder):
        assert isinstance(config, MaeConfig)
        asked, model = config.decoder, model.encoder
        blocks = "one block" if asked.depth == 1 else f"{asked.depth} blocks"
        decoder = f" and a decoder of {blocks} of width {asked.width}, {asked.heads} heads; with it"
    assert isinstance(model, VisionTransformer)
    attention = model.get_submodule("blocks.0.attn")
    assert isinstance(attention, Attention)
    return (
        f"`{backbone.name}` with {f'{arguments}, ' if arguments else ''}{len(model.blocks)} blocks of width "
        f"{model.embed_dim}, {attention.num_heads} heads and patches of {_by(backbone.plain.patch_size)} pixels"
        f"{decoder or ','}"
    )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
