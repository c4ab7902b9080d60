"""What a trained encoder makes of images, its weights as they are."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from data_pipeline.augment import CenterCrop
from data_pipeline.manifest import Manifest
from data_pipeline.order import Integers
from data_pipeline.rows import Part
from data_pipeline.subset import labelled_samples
from launch.console import Console
from pretrain.checkpoint import check_fit
from pretrain.encoder import create_classifier, create_encoder
from pretrain.health import extract
from pretrain.model_folder import WEIGHTS, ModelFolder
from pretrain.world import World

_ROWS = 256  # computed together: as many as `extract` takes, whatever a batch holds


class Features(NamedTuple):
    """Of n images with labels: d numbers each, and the class, on the CPU."""

    values: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]


@dataclass(frozen=True)
class FrozenEncoder:
    """Maps images to features, without gradients. Not a module: nothing that holds it trains or saves its weights."""

    source: ModelFolder
    model: VisionTransformer
    """Evaluating, on the world's device; its own forward gives the class token, or what a mean-pooled head sees."""
    pool: Literal["mean", "token"]
    world: World

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return self.source.encoder.image_size

    @property
    def width(self) -> int:
        """d, numbers of an image."""
        return self.model.embed_dim

    @property
    def description(self) -> str:
        """What the features are, in words."""
        if self.pool == "token":
            return "class token"
        return "mean of patch tokens" + (" after fc_norm" if self.model.global_pool == "avg" else "")

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "b h w c"]) -> Float[Tensor, "b d"]:
        """Features in fp32 of images on the device, so many rows at a time that memory does not grow with b."""
        with self.world.autocast():
            return torch.cat([self._features(rows) for rows in images.split(_ROWS)]).float()

    def _features(self, images: Tensor) -> Tensor:
        pixels = self.source.normalization.normalize(images)
        if self.pool == "mean" and self.model.global_pool == "token":
            return self.model.forward_features(pixels)[:, 1:].mean(dim=1)  # (b, 1 + n, d) -> (b, d)
        return self.model(pixels)


def freeze(source: ModelFolder, pool: Literal["mean", "token"], world: World) -> FrozenEncoder:
    """The encoder in a model folder with all of its weights, a classifier's without its head.

    A classifier that pools by mean normalises that mean alone (`fc_norm`): its features are what its head saw.

    Raises:
        ValueError: the weights do not fit, or the class token of a mean-pooled classifier.
    """
    tensors = {name: tensor for name, tensor in source.tensors().items() if not name.startswith("head.")}
    if "fc_norm.weight" not in tensors:
        model = create_encoder(source.encoder)
    elif pool == "mean":
        model = create_classifier(source.encoder, classes=0, pool="mean", drop_path=0.0)
    else:
        raise ValueError(
            f"--features token: {source.path} is a classifier by the mean of its patch tokens, without a norm for its "
            "class token; give --features mean, or the encoder that it was fine-tuned from"
        )
    check_fit(tensors, model.state_dict(), str(source.path / WEIGHTS))
    model.load_state_dict(tensors)
    return FrozenEncoder(source, model.requires_grad_(False).eval().to(world.device), pool, world)


def labelled(manifest: Manifest, split: str, option: str) -> Integers:
    """Sorted numbers of a split's images that have a label; `option` is the one that named the split.

    Raises:
        ValueError: no such split, or no labels in it.
    """
    if split not in manifest.splits:
        raise ValueError(
            f"{option} {split}: {manifest.folder} has no such split, expected one of {', '.join(manifest.splits)}; a "
            "probe needs one to learn from and one to test on: name those, or shard images in folders train/ and test/"
        )
    members, _ = labelled_samples(manifest, split, None, seed=0)
    if members is None:
        return manifest.split(split).members()
    if len(members) == 0:
        raise ValueError(f"{option} {split}: no image of {manifest.folder} [{split}] has a label; name another split")
    return members


def extract_features(
    encoder: FrozenEncoder,
    part: Part,
    samples: Integers,
    *,
    crop: float,
    console: Console,
    workers: int,
) -> Features:
    """Features and labels of samples of a split, in their order, on every process, the same bits on any number of them.

    `crop` is the share of an image's shorter side that is shown. Samples that do not decode are left out. Every
    process must call it.
    """
    with console.progress(len(samples), label=f"features of {part.split}") as progress:

        def features(images: Tensor) -> Tensor:
            values = encoder(images)
            # The last chunk is padded, and other processes work on theirs.
            progress.advance(min(len(images) * encoder.world.size, len(samples) - progress.position))
            return values

        view = CenterCrop(encoder.size, crop)
        return Features(*extract(features, part, view, encoder.world, samples=samples, workers=workers, chunk=_ROWS))
