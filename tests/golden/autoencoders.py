"""Small masked autoencoders, and Transformers' with the same weights.

Test files cannot import this under pytest's importlib mode: they get it as the fixture `autoencoders`.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig
from pretrain.encoder import create_encoder
from pretrain.masked_autoencoder import MaskedAutoencoder

DISK = {
    "encoder.cls_token": "vit.embeddings.cls_token",
    "encoder.pos_embed": "vit.embeddings.position_embeddings",
    "encoder.patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "encoder.norm": "vit.layernorm",
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.decoder_pos_embed",
    "decoder_embed": "decoder.decoder_embed",
    "decoder_norm": "decoder.decoder_norm",
    "decoder_pred": "decoder.decoder_pred",
}
DISK_BLOCK = {
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attn.proj": ("attention.output.dense",),
    "norm1": ("layernorm_before",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
}
DISK_PREFIX = {"encoder.blocks": "vit.encoder.layer", "decoder_blocks": "decoder.decoder_layers"}
# The same modules as Transformers 5 names them in memory.
MEMORY_BLOCK = {
    "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attn.proj": ("attention.o_proj",),
    "norm1": ("layernorm_before",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
MEMORY_PREFIX = {"encoder.blocks": "vit.layers", "decoder_blocks": "decoder.decoder_layers"}


def their_names(ours: str, block: dict[str, tuple[str, ...]], prefix: dict[str, str]) -> list[str]:
    """Names of the tensors of which ours is the concatenation along the first axis."""
    if ours in DISK:
        return [DISK[ours]]
    module, _, kind = ours.rpartition(".")
    if module in DISK:
        return [f"{DISK[module]}.{kind}"]
    blocks = next(name for name in prefix if module.startswith(f"{name}."))
    index, _, inner = module.removeprefix(f"{blocks}.").partition(".")
    return [f"{prefix[blocks]}.{index}.{name}.{kind}" for name in block[inner]]


def build(
    image_size: tuple[int, int] = (16, 16),
    patch_size: tuple[int, int] = (4, 4),
    channels: int = 3,
    normalize_targets: bool = True,
) -> MaskedAutoencoder:
    """A small autoencoder whose every weight counts: also biases and norms are random."""
    sizes = {"width": 24, "depth": 3, "heads": 3}
    encoder = create_encoder(EncoderConfig("vit_tiny_patch16_224", image_size, patch_size, channels, **sizes))
    objective = ObjectiveConfig(normalize_targets=normalize_targets)
    model = MaskedAutoencoder(encoder, DecoderConfig(width=16, depth=2, heads=4), objective)
    generator = torch.Generator().manual_seed(1)
    model.initialize(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def batch(model: MaskedAutoencoder, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(count, *model.image_shape, generator=generator)
    return images, torch.rand(count, model.patches, generator=generator)


def load_theirs(model: MaskedAutoencoder, folder: Path) -> Any:
    """Transformers' model with our weights, read from a folder in its on-disk layout; its patches are squares of 4.

    It takes rectangles of a square number of patches (before it reads the weights it makes positions of that number's
    root), up to the cutting into patches, which lets them through where positions are to be interpolated.
    """
    transformers = pytest.importorskip("transformers", minversion="5.0")
    channels, *size = model.image_shape
    config = {
        "model_type": "vit_mae",
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 96,
        "layer_norm_eps": 1e-6,
        "image_size": size,
        "patch_size": 4,
        "num_channels": channels,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 64,
        "mask_ratio": 0.75,
        "norm_pix_loss": model.normalize_targets,
    }
    tensors = {}
    for ours, tensor in model.state_dict().items():
        names = their_names(ours, DISK_BLOCK, DISK_PREFIX)
        tensors |= {name: part.contiguous() for name, part in zip(names, tensor.chunk(len(names)), strict=True)}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    theirs, info = transformers.ViTMAEForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    cut = theirs.patchify
    theirs.patchify = lambda images, interpolate_pos_encoding=None: cut(images, interpolate_pos_encoding=True)
    return theirs
