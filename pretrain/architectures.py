"""Any timm model as a classifier: built with sherd's own start where it is a plain vision transformer, else timm's."""

import difflib
import functools
from dataclasses import replace
from typing import Any, Literal

import timm
import torch
from timm.models import get_pretrained_cfg
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from data_pipeline.randomness import Purpose, key
from pretrain.backbone_config import BackboneConfig, Pool
from pretrain.encoder import create_classifier, initialize_encoder, unsupported_features

_POOLING = {"mean": "avg", "token": "token"}
_SIZES = {"width": "embed_dim", "depth": "depth", "heads": "num_heads"}


def complete(config: BackboneConfig) -> BackboneConfig:
    """The config with the sizes that timm states where it leaves them open.

    Raises:
        ValueError: timm knows no such model, or cannot build it so.
    """
    if not timm.is_model(config.name):
        close = ", ".join(difflib.get_close_matches(config.name, timm.list_models(), n=3, cutoff=0))
        raise ValueError(f"--encoder.name {config.name} is no model of timm {timm.__version__}; the closest: {close}")
    stated = get_pretrained_cfg(config.name)
    if config.image_size is None:
        if stated is None:
            raise ValueError(f"--encoder.name {config.name}: timm states no image size for it; pass --image-size H W")
        config = replace(config, image_size=tuple(stated.input_size[1:]))
    if config.patch_size is None and is_plain(config):
        embed = _registered(config).get_submodule("patch_embed")
        config = replace(config, patch_size=tuple(getattr(embed, "patch_size")))  # noqa: B009 - a module's attribute
    return config


@functools.cache  # timm takes tens of milliseconds to build a model, also without memory for its weights
def is_plain(config: BackboneConfig) -> bool:
    """Whether it is timm's plain vision transformer, whose start, positions and patches sherd handles by itself."""
    return not config.arguments and not unsupported_features(_registered(config))


def own_pool(config: BackboneConfig) -> Literal["mean", "token"]:
    """What the head of a plain vision transformer sees as timm registers it."""
    model = _registered(config)
    assert isinstance(model, VisionTransformer)
    return "mean" if model.global_pool == "avg" else "token"


def create_backbone(
    config: BackboneConfig,
    *,
    classes: int,
    pool: Pool,
    drop_path: float,
    seed: int,
    initialization: Literal["mae", "timm"] = "mae",
) -> nn.Module:
    """A classifier with the weights that it starts with, on the CPU.

    Args:
        config: with its sizes, as `complete` gives it.
        classes: of the head; 0 for none.
        pool: what the head sees; "own" is as timm builds the model.
        drop_path: rate of the last block.
        seed: of the weights.
        initialization: of a plain vision transformer, as masked autoencoders start or as timm starts it; any other
            model starts as timm's.

    Raises:
        ValueError: timm cannot build it so.
    """
    luck = key(seed, Purpose.INITIALISATION) >> 1
    if is_plain(config):
        how = own_pool(config) if pool == "own" else pool
        model = create_classifier(config.plain, classes=classes, pool=how, drop_path=drop_path)
        if initialization == "timm":
            start = build(config.name, keywords(config, how) | {"num_classes": classes}, luck)
            model.load_state_dict(start.state_dict())
            return model
        initialize_encoder(model, torch.Generator().manual_seed(luck))
        return model
    arguments = keywords(config, pool) | {"num_classes": classes}
    if drop_path > 0:
        arguments["drop_path_rate"] = drop_path
    return build(config.name, arguments, luck)


def keywords(config: BackboneConfig, pool: Pool) -> dict[str, Any]:
    """Arguments with which timm builds a model that is not a plain vision transformer, but for its head."""
    stated = get_pretrained_cfg(config.name)
    arguments: dict[str, Any] = dict(config.keywords)
    if stated is None or stated.fixed_input_size:
        arguments["img_size"] = config.size
    if config.patch_size is not None:
        arguments["patch_size"] = config.patch_size
    if config.channels != 3:
        arguments["in_chans"] = config.channels
    arguments |= {theirs: size for ours, theirs in _SIZES.items() if (size := getattr(config, ours)) is not None}
    return arguments if pool == "own" else {**arguments, "global_pool": _POOLING[pool]}


def build(name: str, arguments: dict[str, Any], luck: int) -> nn.Module:
    """timm's model on the CPU, with weights drawn from `luck` and not from the global generator.

    Raises:
        ValueError: timm cannot build it with these arguments.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(luck)
        try:
            return timm.create_model(name, **arguments)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            given = ", ".join(f"{option}={value}" for option, value in arguments.items())
            reason = " ".join(str(error).split()) or type(error).__name__
            pooled = "; a model whose head sees something else needs --pool own" if "global_pool" in arguments else ""
            raise ValueError(
                f"timm {timm.__version__} cannot build {name} with {given}: {reason.rstrip('.')}; change --image-size, "
                f"--pool or --encoder.arguments, or choose another --encoder.name{pooled}"
            ) from error


def _registered(config: BackboneConfig) -> nn.Module:
    """The model as timm registers it, without memory for its weights."""
    with torch.device("meta"):
        return timm.create_model(config.name, num_classes=0)
