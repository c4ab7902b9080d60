"""What the JSON files of a format say, and what is refused because they could not."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from finetune.finished_run import FinishedRun
from finetune.formats import describe
from finetune.publish_config import Format
from finetune.published_model import PublishedModel
from pretrain.config import EncoderConfig, OptimizerConfig
from pretrain.encoder import create_encoder, initialize_encoder
from pretrain.mae_config import MaeConfig

if TYPE_CHECKING:
    from tests.unit.finetune.conftest import Finish

LAYOUTS: list[Format] = ["transformers", "facebook"]


def run_of(finish: "Finish", folder: Path, size: tuple[int, int]) -> tuple[FinishedRun, PublishedModel]:
    encoder = EncoderConfig("vit_tiny_patch16_224", size, (2, 2), width=24, depth=1, heads=2)
    optimizer = OptimizerConfig(warmup_epochs=0.1)
    config = MaeConfig(encoder=encoder, epochs=1.0, batch_size=8, optimizer=optimizer, data="d", out="o")
    model = create_encoder(encoder).eval()
    initialize_encoder(model, torch.Generator().manual_seed(0))
    return finish(folder / "run", config), PublishedModel(model)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_how_images_are_prepared(finish: "Finish", tmp_path: Path, layout: Format) -> None:
    prepared = describe(layout, *run_of(finish, tmp_path, (8, 8)))["preprocessor_config.json"]
    assert (prepared["size"], prepared["crop_size"]) == ({"shortest_edge": 8}, {"height": 8, "width": 8})
    assert prepared["image_mean"] == prepared["image_std"] == [0.5] * 3
    assert describe("timm", *run_of(finish, tmp_path, (8, 8))) == {}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_no_square_of_rgb(finish: "Finish", tmp_path: Path, layout: Format) -> None:
    message = rf"^--format {layout}: images are prepared there as squares of RGB pictures, and the model sees "
    run, model = run_of(finish, tmp_path, (8, 12))
    with pytest.raises(
        ValueError, match=rf"{message}3 channels of uint8, 8 x 12 pixels; publish it with --format timm$"
    ):
        describe(layout, run, model)
    run, model = run_of(finish, tmp_path, (8, 8))
    splits = {name: dataclasses.replace(split, dtype="uint16") for name, split in run.manifest.splits.items()}
    run = dataclasses.replace(run, manifest=dataclasses.replace(run.manifest, splits=splits))
    with pytest.raises(
        ValueError, match=rf"{message}3 channels of uint16, 8 x 8 pixels; publish it with --format timm$"
    ):
        describe(layout, run, model)
