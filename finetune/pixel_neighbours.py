"""The baseline that learns nothing: the class of the nearest training image, pixel by pixel."""

import torch
from torch import Tensor

from data_pipeline.augment import CenterCrop
from data_pipeline.chunks import chunks
from data_pipeline.manifest import Manifest
from data_pipeline.order import Integers
from data_pipeline.rows import Part

_LARGEST_SIDE = 32
_MOST_IMAGES = 100_000
_QUERIES = 1024


def pixel_neighbour_accuracy(
    manifest: Manifest, train: str, members: Integers | None, held_out: str, size: tuple[int, int]
) -> float | None:
    """Top-1 on a split of 1-nearest-neighbour by Euclidean distance of pixels, of images at `size` or 32 pixels.

    `members` are the samples of `train` that are neighbours, None for all. None for more than 100,000, whose pixels
    would take gigabytes.
    """
    shown = (min(size[0], _LARGEST_SIDE), min(size[1], _LARGEST_SIDE))
    if members is None:
        members = manifest.split(train).members()
    queries = manifest.split(held_out).members()
    if max(len(members), len(queries)) > _MOST_IMAGES:
        return None
    known, labels = _pixels(manifest, train, members, shown)
    asked, truth = _pixels(manifest, held_out, queries, shown)
    nearest = torch.cat([torch.cdist(some, known).argmin(dim=1) for some in asked.split(_QUERIES)])
    has_label = truth >= 0
    return (labels[nearest] == truth)[has_label].double().mean().item()


def _pixels(manifest: Manifest, split: str, samples: Integers, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pixels (n, values) as float32, and labels (n,)."""
    pieces = list(chunks(Part(manifest, split), CenterCrop(size), 256, samples=samples))
    images = torch.cat([piece.images[piece.valid] for piece in pieces])
    return images.flatten(1).float(), torch.cat([piece.labels[piece.valid] for piece in pieces])
