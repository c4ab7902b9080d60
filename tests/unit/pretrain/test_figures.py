"""The panel is a picture a person can open, and says of each row what it shows."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from pretrain import figures
from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig
from pretrain.encoder import create_encoder
from pretrain.figures import reconstruction_panel
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.picture_rows import PictureRow
from pretrain.pixels import Normalization

LEAKING = "Predicted, in pixels, leaked statistics"


def small(size: tuple[int, int], channels: int, *, normalize_targets: bool) -> MaskedAutoencoder:
    config = EncoderConfig("vit_tiny_patch16_224", size, (2, 2), channels=channels, width=24, depth=1, heads=2)
    objective = ObjectiveConfig(normalize_targets=normalize_targets)
    model = MaskedAutoencoder(create_encoder(config), DecoderConfig(16, 1, 2), objective)
    model.initialize(torch.Generator().manual_seed(0))
    return model


def panel(path: Path, model: MaskedAutoencoder, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    """The images that were drawn."""
    channels, *size = model.image_shape
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (5, *size, channels), generator=generator).to(torch.uint8)
    if dtype != torch.uint8:
        images = images.to(dtype) if dtype == torch.float32 else (images.int() * 200).to(dtype)
    noise = torch.rand(5, model.patches, generator=generator)
    normalization = Normalization((0.5,) * channels, (0.2,) * channels)
    reconstruction_panel(path, model, images, noise, normalization, title="random", what="training images")
    return images


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[PictureRow]]]:
    """The note and the rows of each panel that is drawn."""
    sheets: list[tuple[str, list[PictureRow]]] = []

    def draw(title: str, note: str, rows: list[PictureRow]) -> bytes:
        assert title == "random"
        sheets.append((note, rows))
        return b"drawn"

    monkeypatch.setattr(figures, "draw_rows", draw)
    return sheets


def test_a_panel_is_written_for_squares_and_rectangles(tmp_path: Path):
    for size, normalized in (((8, 8), True), ((8, 16), False)):
        path = tmp_path / f"{size[1]}.png"
        panel(path, small(size, 3, normalize_targets=normalized))
        with Image.open(path) as picture:
            picture.load()
            assert picture.width > 900
            assert len(set(picture.convert("L").tobytes())) > 50


def test_normalised_targets_are_shown_three_times_and_only_the_last_leaks(tmp_path: Path, said):
    images = panel(tmp_path / "x.png", small((8, 8), 3, normalize_targets=True))
    note, rows = said[0]
    names = ["Originals", "Seen by the encoder", "Predicted, normalised", "Predicted, in pixels", LEAKING]
    assert [row.name for row in rows] == names
    assert note == "5 training images of 8 x 8 pixels, in patches of 2 x 2; 75 % hidden"
    assert rows[0].images.tolist() == images.tolist()
    assert rows[1].images.tolist() == images.tolist()
    assert rows[1].note == "4 of 16 patches"
    assert rows[1].covered is not None
    assert rows[1].covered.sum(axis=(1, 2)).tolist() == [12 * 4] * 5
    assert "2 of its deviations" in rows[2].note
    assert "interpolated from the visible" in rows[3].note
    assert rows[3].note.endswith("nothing leaks")
    assert "true means and deviations" in rows[4].note
    visible = ~rows[1].covered
    for row in rows[3:]:
        assert row.images[visible].tolist() == images.numpy()[visible].tolist()


def test_the_normalised_prediction_is_grey_where_it_is_zero(tmp_path: Path, said):
    model = small((8, 8), 3, normalize_targets=True)
    with torch.no_grad():
        model.decoder_pred.weight.zero_()
        model.decoder_pred.bias.copy_(torch.tensor([0.0, 2.0, -2.0]).repeat(4))
    panel(tmp_path / "x.png", model)
    _, rows = said[0]
    assert rows[1].covered is not None
    assert {tuple(pixel) for pixel in rows[2].images[rows[1].covered].tolist()} == {(128, 255, 0)}


def test_pixel_targets_are_shown_once_and_nothing_leaks(tmp_path: Path, said):
    panel(tmp_path / "x.png", small((8, 8), 3, normalize_targets=False))
    assert [row.name for row in said[0][1]] == ["Originals", "Seen by the encoder", "Predicted"]


@pytest.mark.parametrize(
    ("channels", "dtype", "told"),
    [
        (1, torch.uint8, ""),
        (2, torch.uint8, "; channel 1 of 2 shown"),
        (4, torch.uint8, "; channels 1 to 3 of 4 shown"),
        (5, torch.uint16, "; channels 1 to 3 of 5 shown; uint16 shown stretched around each channel's mean"),
        (1, torch.float32, "; float32 shown stretched around each channel's mean"),
    ],
)
def test_other_channels_and_types_are_said(tmp_path: Path, said, channels: int, dtype: torch.dtype, told: str):
    panel(tmp_path / "x.png", small((8, 8), channels, normalize_targets=True), dtype)
    assert said[0][0].removeprefix("5 training images of 8 x 8 pixels, in patches of 2 x 2; 75 % hidden") == told


@pytest.mark.parametrize("dtype", [torch.uint16, torch.float32])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channels_and_types_are_drawn(tmp_path: Path, channels: int, dtype: torch.dtype):
    panel(tmp_path / "x.png", small((8, 8), channels, normalize_targets=True), dtype)
    with Image.open(tmp_path / "x.png") as picture:
        picture.load()
