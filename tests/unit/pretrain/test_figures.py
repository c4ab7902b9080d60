"""The panel is a picture a person can open, and shows what it says."""

from pathlib import Path

import torch
from PIL import Image

from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig
from pretrain.encoder import create_encoder
from pretrain.figures import reconstruction_panel
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.pixels import Normalization


def test_a_panel_is_written_for_squares_and_rectangles(tmp_path: Path):
    for size, normalized in (((8, 8), True), ((8, 16), False)):
        encoder = create_encoder(EncoderConfig("vit_tiny_patch16_224", size, (2, 2), width=24, depth=1, heads=2))
        model = MaskedAutoencoder(encoder, DecoderConfig(16, 1, 2), ObjectiveConfig(normalize_targets=normalized))
        model.initialize(torch.Generator().manual_seed(0))
        images = torch.randint(0, 256, (5, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        path = tmp_path / f"{size[1]}.png"
        reconstruction_panel(
            path,
            model,
            images,
            torch.rand(5, model.patches),
            Normalization((0.5,) * 3, (0.2,) * 3),
            title="random images",
        )
        with Image.open(path) as picture:
            picture.load()
            assert picture.width > 500
            assert len(set(picture.convert("L").tobytes())) > 50
