"""What a report shows of a finished model: where its class token looks, and how its positions resemble each other."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from data_pipeline.augment import CenterCrop
from data_pipeline.chunks import chunks
from data_pipeline.manifest import read_manifest
from data_pipeline.rows import Part
from finetune.attention import class_token_attention, position_similarity
from finetune.report_blocks import Block, Caption, Picture, Scale, Strips, Tile
from finetune.report_facts import number
from finetune.report_folders import Folder
from finetune.report_pictures import (
    attention_colours,
    overlay,
    similarity_colours,
    similarity_maps,
    tile,
)
from pretrain.backbones import restore
from pretrain.encoder import unsupported_features
from pretrain.model_folder import WEIGHTS
from pretrain.model_source import ModelSource, find_source


@dataclass(frozen=True)
class _Shown:
    """Images (b, h, w, 3), uint8, and what each is, for a screen reader."""

    images: Tensor
    names: tuple[str, ...]
    data: str
    split: str


def map_blocks(folder: Folder, images: int) -> list[Block]:
    """Attention maps of the last block on so many held-out images.

    Raises:
        ValueError: no finished model, or no dataset folder.
    """
    found = find_source(folder.name, "model of")
    model = _load(found)
    shown = _held_out_images(folder, found, images)
    maps = class_token_attention(model, found.normalization.normalize(shown.images)).numpy()
    rows = tuple(
        _strip(image, weights, name)
        for image, weights, name in zip(shown.images.numpy(), maps, shown.names, strict=True)
    )
    text = (
        f"Attention of the class token to the patches in the last block, on images of {shown.data} [{shown.split}]: "
        f"the mean of the {maps.shape[1]} heads, then each head. Every map is scaled to its own largest weight; the "
        f"number is the share of the attention that falls on patches, the rest stays on {_others(model)}."
    )
    if found.classes and model.global_pool == "avg":
        text += " This classifier decides by the mean of its patches, not by its class token."
    caption = Caption(text, (f"{found.path}/{WEIGHTS}", f"{shown.data}/manifest.json"))
    return [Strips(rows, caption, Scale(attention_colours(), "no attention", "the map's largest"))]


def position_blocks(folder: Folder) -> list[Block]:
    """Similarity of the position embeddings. Raises ValueError where there is no finished model."""
    found = find_source(folder.name, "model of")
    positions = _load(found).get_parameter("pos_embed").detach()
    uri, (down, across), low = similarity_maps(position_similarity(positions, found.backbone.plain.grid).numpy())
    rows, columns = found.backbone.plain.grid
    each = "each patch" if (down, across) == (rows, columns) else f"{down} x {across} evenly spaced patches"
    text = (
        f"Cosine similarity of the position embedding of {each} of the {rows} x {columns} to those of all patches: a "
        "map stands where its own patch is in the image."
    )
    scale = Scale(similarity_colours(), f"{low:.2f}", "1")
    return [Picture(uri, text, Caption(text, (f"{found.path}/{WEIGHTS}",)), scale=scale)]


def _load(found: ModelSource) -> VisionTransformer:
    """The model without its head, on the CPU. Raises ValueError for one that has no class token to look with."""
    model = restore(found, headless=True)
    if unsupported_features(model) and not isinstance(model, VisionTransformerDistilled):
        raise ValueError(
            f"{found.name}: its model is a {type(model).__name__}; maps are drawn of plain vision transformers alone"
        )
    assert isinstance(model, VisionTransformer)
    return model


def _others(model: VisionTransformer) -> str:
    return "the class token" if model.num_prefix_tokens == 1 else "the class and the distillation token"


def _held_out_images(folder: Folder, found: ModelSource, count: int) -> _Shown:
    """The first of the held-out split, or where there is none of the split trained on."""
    data = folder.find_data()
    manifest = read_manifest(data)
    held_out, split = (str(folder.config.get(name, name)) for name in ("held_out", "split"))
    split = held_out if held_out in manifest.splits else split
    samples = manifest.split(split).members(count)
    crop = number(folder.config.get("evaluation_crop", 1.0))
    chunk = next(chunks(Part(manifest, split), CenterCrop(found.backbone.size, crop), len(samples), samples=samples))
    classes = manifest.classes
    labels = chunk.labels[chunk.valid].tolist()
    names = tuple(classes[label] if classes is not None and label >= 0 else "an image" for label in labels)
    return _Shown(chunk.images[chunk.valid], names, str(data), split)


def _strip(image: NDArray[np.uint8], weights: NDArray[np.float32], name: str) -> tuple[Tile, ...]:
    """The image, the mean over heads and each head: weights (heads, rows, columns)."""
    maps = [("mean", weights.mean(axis=0)), *((f"head {head}", one) for head, one in enumerate(weights, start=1))]
    tiles = [Tile(tile(image), name, "", f"image: {name}")]
    for label, one in maps:
        tiles.append(Tile(tile(overlay(image, one)), label, f"{one.sum():.1%}", f"{label}: attention on {name}"))
    return tuple(tiles)
