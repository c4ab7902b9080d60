"""A classifier of anyone, ready for the images of a dataset, which it is shown as its figures ask for."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from data_pipeline.augment import CenterCrop, View
from data_pipeline.rows import Part
from data_pipeline.stock_view import StockView
from finetune.validate_config import ValidateConfig
from launch.redaction import redact
from pretrain.backbones import restore
from pretrain.model_source import ModelSource, find_source
from pretrain.pixels import check_channels
from pretrain.world import World


@dataclass(frozen=True)
class ReadyClassifier:
    """A model that evaluates, on the world's device, and how images are shown to it."""

    source: ModelSource
    model: nn.Module
    view: View
    world: World

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (b, classes) of uint8 images (b, h, w, c) on the device."""
        with self.world.autocast():
            return self.model(self.source.normalization.normalize(images))

    @property
    def preparation(self) -> dict[str, Any]:
        """How images are prepared, for evaluation.json."""
        whose = {"image_size": list(self.view.size), "by": "sherd"}
        if isinstance(self.view, StockView):
            whose |= {"by": "timm", "interpolation": self.view.interpolation, "crop_mode": self.view.crop_mode}
        normalization = self.source.normalization
        crop = self.source.preparation.crop_fraction
        return {**whose, "crop_fraction": crop, "mean": list(normalization.mean), "std": list(normalization.std)}

    @property
    def prepared(self) -> str:
        """The same in words."""
        told = self.preparation
        height, width = self.view.size
        how = [f"{name.replace('_', ' ')} {told[name]}" for name in ("interpolation", "crop_mode") if name in told]
        colours = [f"{name} {' '.join(f'{value:g}' for value in told[name])}" for name in ("mean", "std")]
        crop = f"crop fraction {told['crop_fraction']:g}"
        return f"as {told['by']} prepares them: {', '.join((f'{height} x {width}', *how, crop, *colours))}"


def open_classifier(config: ValidateConfig, part: Part, world: World) -> ReadyClassifier:
    """The classifier that the config names, ready for the images of a split.

    Raises:
        ValueError: no such model, one without a head, or one for other images.
    """
    assert config.model is not None
    source = find_source(config.model, "--model")
    if source.classes == 0:
        raise ValueError(
            f"--model {source.name}: expected a classifier, found an encoder without a head; measure its features "
            f"with: python finetune/probe.py small --init {source.name} --data {redact(str(config.data))} --out PROBE"
        )
    check_channels(source.backbone.channels, [part], part.split, init="--model")
    return ReadyClassifier(source, restore(source).to(world.device), _view(config, source, part), world)


def _view(config: ValidateConfig, source: ModelSource, part: Part) -> View:
    size, how = source.backbone.size, source.preparation
    if config.preparation == "sherd" or (config.preparation == "auto" and source.is_ours):
        return CenterCrop(size, how.crop_fraction)
    split = part.manifest.split(part.split)
    if (split.channels, split.dtype) != (3, "uint8"):
        raise ValueError(
            f"{part.manifest.folder} [{part.split}]: timm prepares images of 3 channels of uint8 only, and these have "
            f"{split.channels} of {split.dtype}; pass --preparation sherd"
        )
    return StockView(size, how.interpolation, how.crop_fraction, how.crop_mode, source.normalization.mean)
