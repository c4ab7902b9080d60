"""The images that a published model is proven on, as they are stored and as the run prepares them for evaluation."""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from data_pipeline.augment import View
from data_pipeline.chunks import chunks
from data_pipeline.manifest import locate_sample, sample_starts
from data_pipeline.rows import Part
from data_pipeline.storage import ShardReader
from pretrain.pixels import Normalization

_IMAGES = 64
_NOISE_SEED = 0


@dataclass(frozen=True)
class Inputs:
    """n images: `pixels` (n, h, w, c) as they were cropped and resized, of the stored type, and the files' bytes.

    `stored` is empty where the files are no pictures that an image library opens.
    """

    part: Part
    pixels: Tensor
    normalization: Normalization
    stored: tuple[bytes, ...]

    @property
    def images(self) -> Float[Tensor, "n c h w"]:
        """What the model sees."""
        return self.normalization.normalize(self.pixels).contiguous()

    @property
    def sha256(self) -> str:
        """Of what the model sees, as little-endian float32, row by row."""
        return tensor_sha256(self.images)


def gather_inputs(part: Part, view: View, normalization: Normalization, most: int = _IMAGES) -> Inputs:
    """The first images of a split, at most so many, without those that do not decode.

    Raises:
        ValueError: none of them decodes.
    """
    split = part.manifest.split(part.split)
    samples = split.members(most)
    (chunk,) = chunks(part, view, len(samples), samples=samples)
    valid = chunk.valid.numpy()
    if not valid.any():
        raise ValueError(f"{part.manifest.folder} [{part.split}]: none of its first {len(samples)} images decodes")
    stored: tuple[bytes, ...] = ()
    if split.extension != "npy":
        reader = ShardReader(part.manifest, split)
        shards, rows = locate_sample(sample_starts(split), samples[valid])
        stored = tuple(bytes(reader.image(int(shard), int(row))[0]) for shard, row in zip(shards, rows, strict=True))
    return Inputs(part, chunk.images[chunk.valid].contiguous(), normalization, stored)


def masking_noise(images: int, patches: int) -> Float[Tensor, "n patches"]:
    """Which patches of each image are hidden, the same in every proof: those of the largest noise."""
    return torch.rand(images, patches, generator=torch.Generator().manual_seed(_NOISE_SEED))


def drawn_pixels(pixels: Tensor) -> Tensor:
    """Pixels of the same shape and type that show nothing of anybody's images: independent, uniform noise."""
    generator = torch.Generator().manual_seed(_NOISE_SEED)
    if pixels.dtype.is_floating_point:
        return torch.rand(pixels.shape, generator=generator, dtype=pixels.dtype)
    most = torch.iinfo(pixels.dtype).max
    return torch.randint(0, most + 1, pixels.shape, generator=generator, dtype=torch.int64).to(pixels.dtype)


def tensor_sha256(values: Tensor) -> str:
    """Of float32 values as little-endian bytes, row by row."""
    return hashlib.sha256(values.numpy().astype("<f4").tobytes()).hexdigest()
