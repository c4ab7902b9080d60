"""From a model that exists, or from nothing, to a classifier that can be trained."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from data_pipeline.randomness import Purpose, key
from pretrain.architectures import complete, create_backbone, is_plain, own_pool
from pretrain.backbones import Loaded, head_names, load_other, load_plain
from pretrain.class_agreement import check_classes
from pretrain.drop_path import drop_evenly
from pretrain.model_source import ModelSource, find_source
from pretrain.supervised_config import SCRATCH, SupervisedConfig

Say = Callable[[str], None]
Config = TypeVar("Config", bound=SupervisedConfig)


def resolve(config: Config) -> tuple[Config, ModelSource | None]:
    """The config with the sizes and the pooling that the model will have, and what `init` names; None from scratch.

    Raises:
        ValueError: no model there, or none that timm can build.
    """
    source = None if config.init == SCRATCH else find_source(config.init, "--init", like=config.encoder)
    start = config.encoder if source is None else source.backbone
    sizes = {
        "image_size": config.image_size or start.image_size,
        "patch_size": config.patch_size or start.patch_size,
    }
    encoder = complete(replace(start, **sizes))
    pool = source.pool if source is not None and config.pool == "own" else config.pool
    if is_plain(encoder):
        pool = own_pool(encoder) if pool == "own" else pool
        _ = encoder.plain  # refuses a patch that does not divide the image
    return replace(config, encoder=encoder, pool=pool), source


def build_classifier(
    config: SupervisedConfig, source: ModelSource | None, names: tuple[str, ...], say: Say
) -> nn.Module:
    """A classifier whose config `resolve` has given, with its weights at the start, on the CPU; says what came whence.

    Raises:
        ValueError: the weights do not fit, or the head that is to be kept is for other classes.
    """
    encoder = config.encoder
    model = create_backbone(
        encoder,
        classes=len(names),
        pool=config.pool,
        drop_path=config.drop_path,
        seed=config.seed,
        initialization=config.initialization,
    )
    if config.drop_path_rule == "even" and config.drop_path > 0:
        drop_evenly(model, config.drop_path)
    _initialize_head(model, config)
    height, width = encoder.size
    if source is None:
        say(f"image_size: {height} x {width}; all weights are new (seed {config.seed})")
        return model
    if config.head == "keep":
        said = check_classes(source, names, "--head keep", fix="drop --head keep to start with a new one")
        if said is not None:
            say(said)
    loaded = _load(model, config, source)
    same = source.backbone.size == encoder.size
    say(f"image_size: {height} x {width} ({'from checkpoint' if same else 'as asked for'})")
    for sentence in loaded.resized[:3]:
        say(sentence)
    if len(loaded.resized) > 3:
        say(f"and {len(loaded.resized) - 3} more tensors, in the same way")
    say(
        f"weights of {source.path}"
        + (f", new: {', '.join(loaded.fresh)}" if loaded.fresh else "")
        + (f", left out: {', '.join(loaded.left_out)}" if loaded.left_out else "")
    )
    return model


def _load(model: nn.Module, config: SupervisedConfig, source: ModelSource) -> Loaded:
    keeps_head = config.head == "keep"
    if is_plain(config.encoder) and is_plain(source.backbone):
        return load_plain(model, source, config.encoder.plain, config.interpolation, keeps_head=keeps_head)
    return load_other(model, source, keeps_head=keeps_head)


def _initialize_head(model: nn.Module, config: SupervisedConfig) -> None:
    """Small weights for every head: two of a distilled transformer."""
    generator = torch.Generator().manual_seed(key(config.seed, Purpose.HEAD) >> 1)
    with torch.no_grad():
        for name in head_names(model):
            parameter = model.get_parameter(name)
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=config.head_std, generator=generator)
            else:
                nn.init.zeros_(parameter)
