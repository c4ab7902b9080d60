"""The encoder folder is timm's, and tells nothing of weights that are not in it."""

import json
from pathlib import Path

import pytest
import timm
import torch

from pretrain.config import EncoderConfig
from pretrain.encoder import create_encoder, initialize_encoder
from pretrain.model_folder import save_model
from pretrain.pixels import Normalization

SIZES = [
    EncoderConfig("vit_tiny_patch16_224", (8, 8), (2, 2), width=24, depth=2, heads=2),
    EncoderConfig("vit_tiny_patch16_224", (16, 24), (4, 8), depth=1),
    EncoderConfig("vit_small_patch16_224", (32, 32), (16, 16), depth=1),
    EncoderConfig("vit_tiny_patch16_224", (8, 8), (2, 2), channels=1, depth=1),
    EncoderConfig("vit_tiny_patch16_224", (8, 8), (2, 2), channels=5, depth=1),
]


@pytest.mark.parametrize("config", SIZES, ids=str)
def test_timm_rebuilds_the_same_model(tmp_path: Path, config: EncoderConfig):
    encoder, channels = create_encoder(config), config.channels
    initialize_encoder(encoder, torch.Generator().manual_seed(0))
    normalization = Normalization((0.1, 0.2, 0.3, 0.4, 0.5)[:channels], (0.4, 0.5, 0.6, 0.7, 0.8)[:channels])
    save_model(tmp_path / "e", encoder, config, normalization)
    save_model(tmp_path / "e", encoder, config, normalization)  # written over
    loaded = timm.create_model(f"local-dir:{tmp_path / 'e'}", pretrained=True)
    images = torch.rand(2, channels, *config.image_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(loaded.eval().forward_features(images), encoder.eval().forward_features(images))
    described = json.loads((tmp_path / "e" / "config.json").read_text())["pretrained_cfg"]
    assert described["mean"] == list(normalization.mean)
    assert described["input_size"] == [channels, *config.image_size]
    # timm 1.0.22 takes a first layer of that name for one of RGB and, in a model of more channels, starts it anew.
    assert described["first_conv"] == ("patch_embed.proj" if channels == 3 else None)
    assert not described.keys() & {"tag", "license", "origin_url", "hf_hub_id", "paper_ids"}
