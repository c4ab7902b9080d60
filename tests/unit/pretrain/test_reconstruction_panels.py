"""Panels of reconstructions: the same images every time, and what is said where there are none."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.augment import CenterCrop
from data_pipeline.chunks import Chunk, chunks
from data_pipeline.config import ShardConfig
from data_pipeline.manifest import DatasetError, Manifest
from data_pipeline.rows import Part
from data_pipeline.sharding import shard_dataset
from launch.console import Console
from launch.run_folder import RunFolder
from pretrain import reconstruction_panels as panels_module
from pretrain.encoder import create_encoder
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.monitor import Monitor
from pretrain.pixels import choose_normalization
from pretrain.recipes import RECIPES
from pretrain.reconstruction_panels import ReconstructionPanels
from pretrain.session import Session
from pretrain.world import World

CONFIG = replace(RECIPES["digits"].config, data="d", out="o")
Watch = Callable[..., tuple[ReconstructionPanels, MaskedAutoencoder]]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("data") / "digits"
    return shard_dataset(ShardConfig(source="digits", out=str(folder), workers=1), Console(rank=1))


@pytest.fixture
def watch(tmp_path: Path, digits: Manifest) -> Watch:
    """Panels of a fresh model."""

    def build(**options: Any):
        run = RunFolder(tmp_path)
        run.figures.mkdir(exist_ok=True)
        model = MaskedAutoencoder(create_encoder(CONFIG.encoder), CONFIG.decoder, CONFIG.objective).eval()
        model.initialize(torch.Generator().manual_seed(0))
        monitor = Monitor(CONFIG, digits, Session(World("fp32"), Console(rank=1), run, {}), 0)

        def noise_of(samples: np.ndarray) -> torch.Tensor:
            generator = torch.Generator().manual_seed(int(samples[0]))
            return torch.rand(len(samples), model.patches, generator=generator)

        return ReconstructionPanels(monitor, choose_normalization("dataset", digits), noise_of, **options), model

    return build


def test_each_panel_is_shown_and_is_the_same_every_time(watch: Watch):
    shown: list[tuple[str, Path]] = []
    panels, model = watch(shown=lambda name, path: shown.append((name, path)))
    path = panels.draw(model, 12.0)
    assert path.name == "reconstruction-epoch-00012.0.png"
    first = path.read_bytes()
    panels.draw(model, 12.0)
    assert shown == [("reconstruction", path)] * 2
    assert path.read_bytes() == first
    assert panels.draw(model, 13.0).read_bytes() != first, "the epoch is in the title"


def some_broken(working: Callable[[int], bool]) -> Callable[..., Any]:
    def broken(*arguments: Any, **named: Any):
        for chunk in chunks(*arguments, **named):
            valid = torch.tensor([working(int(sample)) for sample in chunk.samples])
            yield Chunk(chunk.number, chunk.images, chunk.labels, chunk.samples, chunk.valid & valid)

    return broken


def test_images_that_do_not_decode_make_room_for_the_next(watch: Watch, monkeypatch: pytest.MonkeyPatch):
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(panels_module, "chunks", some_broken(lambda sample: sample % 3 == 1))
    monkeypatch.setattr(
        panels_module, "reconstruction_panel", lambda *arguments, **named: drawn.update(images=arguments[2])
    )
    panels, model = watch()
    panels.draw(model, 1.0)
    (all_images,) = chunks(Part(panels.monitor.manifest, "test"), CenterCrop((8, 8)), 24, samples=np.arange(24))
    assert torch.equal(drawn["images"], all_images.images[1::3])


def test_nothing_to_draw_names_the_split(watch: Watch, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(panels_module, "chunks", some_broken(lambda _: False))
    panels, model = watch()
    message = f"{panels.monitor.manifest.folder} [test]: none of its first 64 images decodes"
    with pytest.raises(DatasetError, match=re.escape(message)):
        panels.draw(model, 1.0)
