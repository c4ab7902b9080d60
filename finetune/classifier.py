"""From an encoder, or from nothing, to a classifier that can be trained."""

from collections.abc import Callable
from dataclasses import replace

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from data_pipeline.randomness import Purpose, key
from finetune.classify_config import SCRATCH, ClassifyConfig
from pretrain.checkpoint import check_fit
from pretrain.encoder import create_classifier, initialize_encoder
from pretrain.model_folder import ModelFolder, find_model
from pretrain.positions import interpolate_positions

Say = Callable[[str], None]


def resolve(config: ClassifyConfig) -> tuple[ClassifyConfig, ModelFolder | None]:
    """The config with the sizes of the encoder that `init` names, and that encoder; None from scratch.

    Raises:
        ValueError: no encoder there, or one of another patch size.
    """
    if config.init == SCRATCH:
        size = config.image_size or config.encoder.image_size
        return replace(config, encoder=replace(config.encoder, image_size=size)), None
    source = find_model(config.init, "--init")
    expected, found = config.encoder.patch_size, source.encoder.patch_size
    if expected != found:
        raise ValueError(
            f"--init {config.init}: its encoder cuts patches of {found[0]} x {found[1]} pixels, this recipe expects "
            f"{expected[0]} x {expected[1]}; choose a recipe for them, or if its other settings are meant for this "
            f"encoder too: --encoder.patch-size {found[0]} {found[1]}"
        )
    size = config.image_size or source.encoder.image_size
    return replace(config, encoder=replace(source.encoder, image_size=size)), source


def build_classifier(config: ClassifyConfig, source: ModelFolder | None, classes: int, say: Say) -> VisionTransformer:
    """A classifier whose config `resolve` has given, with its weights at the start, on the CPU; says what came whence.

    Raises:
        ValueError: the weights do not fit, or the head that is to be kept is for another number of classes.
    """
    model = create_classifier(config.encoder, classes=classes, pool=config.pool, drop_path=config.drop_path)
    generator = torch.Generator().manual_seed(key(config.seed, Purpose.INITIALISATION) >> 1)
    initialize_encoder(model, generator)  # a head and a norm that the source lacks stay as this leaves them
    _initialize_head(model, config)
    size = config.encoder.image_size
    if source is None:
        say(f"image_size: {size[0]} x {size[1]}; all weights are new (seed {config.seed})")
        return model
    expected = model.state_dict()
    tensors = source.tensors()
    left_out = _prepare(tensors, config, source, classes)
    fresh = [name for name in expected if name not in tensors and name.startswith(("head.", "fc_norm."))]
    check_fit(tensors, {name: tensor for name, tensor in expected.items() if name not in fresh}, str(source.path))
    model.load_state_dict({**{name: expected[name] for name in fresh}, **tensors})
    old = source.encoder.image_size
    how = f", positions interpolated from {old[0]} x {old[1]} as {config.interpolation} does" if old != size else ""
    say(f"image_size: {size[0]} x {size[1]} ({'from checkpoint' if old == size else 'as asked for'}{how})")
    say(
        f"weights of {source.path}"
        + (f", new: {', '.join(fresh)}" if fresh else "")
        + (f", left out: {', '.join(left_out)}" if left_out else "")
    )
    return model


def _initialize_head(model: VisionTransformer, config: ClassifyConfig) -> None:
    generator = torch.Generator().manual_seed(key(config.seed, Purpose.HEAD) >> 1)
    assert isinstance(model.head, nn.Linear)
    with torch.no_grad():
        nn.init.trunc_normal_(model.head.weight, std=config.head_std, generator=generator)
        nn.init.zeros_(model.head.bias)


def _prepare(tensors: dict[str, Tensor], config: ClassifyConfig, source: ModelFolder, classes: int) -> list[str]:
    """Fit the source's tensors to the classifier, in place; names of those that it has no use for."""
    has_head = "head.weight" in tensors
    if config.head == "keep":
        if not has_head:
            raise ValueError(f"--head keep: {source.path} has no head to keep; drop --head keep")
        if source.classes != classes:
            raise ValueError(
                f"--head keep: the head of {source.path} is for {source.classes} classes, the data have {classes}; "
                "drop --head keep to start with a new one"
            )
    # A head belongs to the norm before it: what another head was trained on tells nothing to a new one.
    unused = [] if config.head == "keep" else ["head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"]
    if config.pool == "mean":
        unused += ["norm.weight", "norm.bias"]
    left_out = [name for name in unused if tensors.pop(name, None) is not None]
    tensors["pos_embed"] = interpolate_positions(
        tensors["pos_embed"], source.encoder.grid, config.encoder.grid, config.interpolation
    )
    return left_out
