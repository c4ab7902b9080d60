"""Features of a split's images, computed in one pass or read from where an earlier probe has kept them."""

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_pipeline.augment import CenterCrop, View
from data_pipeline.manifest import Manifest, Split
from data_pipeline.order import Integers
from data_pipeline.rows import Part
from data_pipeline.stock_view import StockView
from data_pipeline.subset import labelled_samples, read_labels
from finetune.feature_cache import FeatureCache
from finetune.frozen_features import ROWS, Choice, FrozenEncoder
from launch.console import Console
from pretrain.health import extract
from pretrain.model_source import ModelSource
from pretrain.session import bit_equality_depends_on

_FORMAT = 1  # what else in sherd the features depend on: to be raised with a change of it
_LIBRARIES = ("sherd", "torch", "timm", "torchvision", "numpy", "pillow", "simplejpeg", "nvidia-nvimgcodec-cu13")


class Features(NamedTuple):
    """Of n images with labels: d numbers each, and the class, on the CPU."""

    values: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]

    def of(self, choice: Choice) -> "Features":
        """The columns of a choice, without a copy."""
        return Features(self.values[:, choice.columns], self.labels)


def evaluation_view(source: ModelSource, crop: float | None, split: Split) -> View:
    """How images that are not trained on are shown to a model: the share `crop` of their shorter side; without it as
    its config.json says, and pictures to a model that sherd has not written as timm shows them, to the bit.
    """
    own, size = source.preparation, source.backbone.size
    is_picture = (split.channels, split.dtype) == (3, "uint8")
    if crop is None and source.is_described and not source.is_ours and is_picture:
        return StockView(size, own.interpolation, own.crop_fraction, own.crop_mode, source.normalization.mean)
    return CenterCrop(size, own.crop_fraction if crop is None else crop)


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
    view: View,
    console: Console,
    workers: int,
    cache: FeatureCache | None,
) -> Features | None:
    """Features and labels of samples of a split, in their order: on rank 0, and None elsewhere.

    The same bits on any number of processes. Samples that do not decode are left out. Every process must call it.

    Raises:
        ValueError: no image decodes, or features are not finite.
    """
    is_first = encoder.world.rank == 0
    identity: dict[str, Any] = {}
    found = None
    if cache is not None and is_first:
        identity = feature_identity(encoder, part, samples, view)
        found = cache.read(identity)
        if found is not None:
            console.say(f"features of {part.split}: those of {len(found['labels']):,} images are in {cache.folder}")
    if encoder.world.any(found is not None):
        return None if found is None else Features(found["values"], found["labels"])
    with console.progress(len(samples), label=f"features of {part.split}") as progress:

        def features_of(images: Tensor) -> Tensor:
            values = encoder(images)
            # The last chunk is padded, and other processes work on theirs.
            progress.advance(min(len(images) * encoder.world.size, len(samples) - progress.position))
            return values

        features = Features(
            *extract(features_of, part, view, encoder.world, samples=samples, workers=workers, chunk=ROWS)
        )
    _check(features, part, len(samples))
    if not is_first:
        return None
    if cache is not None:
        cache.write(identity, features._asdict())
    return features


def feature_identity(encoder: FrozenEncoder, part: Part, samples: Integers, view: View) -> dict[str, Any]:
    """All that features of samples depend on, as plain JSON: the name under which they are kept."""
    source, split = encoder.source, part.manifest.split(part.split)
    config = source.path / "config.json"
    built = repr((source.backbone, source.normalization, source.stated))
    return {
        "format": _FORMAT,
        "weights": source.sha256,
        "config": _sha256(config.read_bytes()) if source.is_folder else built,
        "features": list(encoder.pieces),
        "split": split.fingerprint,
        "samples": _sha256(samples.tobytes()),
        "labels": _sha256(read_labels(part.manifest, part.split)[samples].tobytes()),
        "view": repr(view),
        "precision": encoder.world.precision,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "device": bit_equality_depends_on(encoder.world)["device"],
        "rows": ROWS,
        "versions": {name: _version(name) for name in _LIBRARIES},
    }


def open_feature_cache(where: str, out: Path, console: Console) -> FeatureCache | None:
    """The cache of an option's value: `none`, `auto` for the one beside the run folder `out`, or a folder."""
    if where == "none":
        return None
    return FeatureCache(out.absolute().parent / ".feature-cache" if where == "auto" else Path(where), console.say)


def _check(features: Features, part: Part, samples: int) -> None:
    said = f"{part.manifest.folder} [{part.split}]"
    if len(features.labels) == 0:
        raise ValueError(f"{said}: none of {samples:,} images decodes; see: python data_pipeline/survey.py verify")
    broken = len(features.labels) - int(features.values.isfinite().all(dim=1).sum())
    if broken:
        raise ValueError(
            f"{said}: features of {broken:,} of {len(features.labels):,} images are NaN or infinite, expected finite "
            "numbers; look at the weights, or compute in --precision fp32"
        )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
