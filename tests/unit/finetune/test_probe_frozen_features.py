"""Frozen features are timm's, of every kind of model; what cannot give them is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer

from data_pipeline.augment import CenterCrop
from data_pipeline.manifest import Split
from data_pipeline.stock_view import StockView
from finetune.extraction import evaluation_view
from finetune.frozen_features import FrozenEncoder, freeze
from pretrain.config import EncoderConfig
from pretrain.encoder import create_classifier, create_encoder
from pretrain.model_folder import save_model
from pretrain.model_source import ModelSource, find_source
from pretrain.pixels import Normalization
from pretrain.world import World

CONFIG = EncoderConfig("vit_tiny_patch16_224", (8, 12), (4, 4), width=24, depth=3, heads=2)
NORMALIZATION = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
IMAGES = torch.randint(0, 256, (5, 8, 12, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LARGER = torch.randint(0, 256, (2, 160, 160, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def world() -> World:
    return World("fp32")


def fill(model: torch.nn.Module) -> None:
    """Random weights, every one of which counts."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def write(folder: Path, model: VisionTransformer) -> ModelSource:
    """A model folder of sherd."""
    fill(model)
    names = tuple("abc") if model.num_classes else None
    save_model(folder, model, CONFIG, NORMALIZATION, class_names=names)
    return find_source(str(folder), "--init")


def write_stock(folder: Path, name: str, **arguments: Any) -> ModelSource:
    """A folder that timm has written, of one of its small models."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=7, **arguments)
    save_for_hf(model, str(folder), model_args=arguments, safe_serialization=True)
    return find_source(str(folder), "--init")


def loaded_by_timm(folder: Path) -> VisionTransformer:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert isinstance(model, VisionTransformer)
    return model


def test_features_of_an_encoder_are_those_of_timm(tmp_path: Path, world: World):
    source = write(tmp_path / "m", create_encoder(CONFIG))
    with torch.no_grad():
        tokens = loaded_by_timm(tmp_path / "m").forward_features(NORMALIZATION.normalize(IMAGES))
    mean, token, pooled, auto = (freeze(source, asked, world) for asked in ("mean", "token", "pooled", "auto"))
    assert torch.equal(mean(IMAGES), tokens[:, 1:].mean(dim=1))
    assert torch.equal(auto(IMAGES), mean(IMAGES))
    assert torch.equal(token(IMAGES), tokens[:, 0])
    assert torch.equal(pooled(IMAGES), tokens[:, 0])
    names = [encoder.features.name for encoder in (mean, auto, token, pooled)]
    assert names == ["mean of patch tokens"] * 2 + ["class token"] * 2
    assert (mean.size, mean.width) == ((8, 12), 24)
    assert not any(parameter.requires_grad for parameter in mean.model.parameters())
    assert not mean.model.training


def test_those_of_a_classifier_are_what_its_head_saw(tmp_path: Path, world: World):
    for pool in ("token", "mean"):
        source = write(tmp_path / pool, create_classifier(CONFIG, classes=3, pool=pool, drop_path=0.1))
        model = loaded_by_timm(tmp_path / pool)
        with torch.no_grad():
            tokens = model.forward_features(NORMALIZATION.normalize(IMAGES))
            expected = model.forward_head(tokens, pre_logits=True)
        for asked in ("auto", "pooled", pool):
            frozen = freeze(source, asked, world)
            assert torch.equal(frozen(IMAGES), expected)
            assert frozen.features.name == ("class token" if pool == "token" else "mean of patch tokens after fc_norm")
    refusal = (
        f"--features token: {tmp_path / 'mean'} is a classifier by the mean of its patch tokens, without a norm for "
        "its class token; give --features mean, or the encoder that it was fine-tuned from"
    )
    with pytest.raises(ValueError, match=re.escape(refusal)):
        freeze(source, "token", world)


def test_rows_for_a_sweep_hold_tokens_of_the_last_blocks_and_the_mean(tmp_path: Path, world: World):
    source = write(tmp_path / "m", create_encoder(CONFIG))
    frozen = freeze(source, "mean", world, blocks=(1, 2, 8))
    assert frozen.pieces == ("token-2", "token", "mean")
    model = loaded_by_timm(tmp_path / "m")
    with torch.no_grad():
        before, last = model.get_intermediate_layers(
            NORMALIZATION.normalize(IMAGES), n=2, return_prefix_tokens=True, norm=True
        )
    tokens, mean = [before[1][:, 0], last[1][:, 0]], last[0].mean(dim=1)
    rows = frozen(IMAGES)
    expected = {
        "class token": tokens[1:],
        "class token, mean of patch tokens": [tokens[1], mean],
        "class tokens of the last 2 blocks": tokens,
        "class tokens of the last 2 blocks, mean of patch tokens": [*tokens, mean],
    }
    choices = frozen.choices((1, 2, 8))
    assert [choice.name for choice in choices] == list(expected)
    for choice, parts in zip(choices, expected.values(), strict=True):
        assert torch.equal(rows[:, choice.columns], torch.cat(parts, dim=1)), choice.name
    assert torch.equal(rows[:, frozen.features.columns], mean)
    assert torch.equal(rows[:, frozen.features.columns], freeze(source, "mean", world)(IMAGES))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_coatnet", "map"])
def test_any_timm_model_gives_what_its_head_sees(tmp_path: Path, world: World, name: str):
    architecture, arguments = (name, {}) if name != "map" else ("test_vit", {"global_pool": "map"})
    source = write_stock(tmp_path / "m", architecture, **arguments)
    model = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True, num_classes=0).eval()
    with torch.no_grad():
        expected = model(source.normalization.normalize(LARGER))
    frozen = freeze(source, "auto", world)
    assert torch.equal(frozen(LARGER), expected)
    assert (frozen.width, frozen.features.name) == (expected.shape[1], "pooled features")
    assert expected.std(dim=0).max() > 1e-4, "the images must differ"
    swept = freeze(source, "auto", world, blocks=(1, 2))
    assert torch.equal(swept(LARGER)[:, swept.features.columns], expected)
    if name == "map":
        assert swept.pieces == ("pooled", "token-2", "token", "mean")
        assert len(swept.choices((1, 2))) == 4
        return
    assert swept.choices((1, 2)) == (swept.features,)
    kind = type(model).__name__
    for asked, has_none in (("mean", "patch tokens"), ("token", "class token")):
        refusal = (
            f"--features {asked}: {source.name} is a {kind}, which has no {has_none} of a plain vision transformer; "
            "give --features pooled, what its own head sees"
        )
        with pytest.raises(ValueError, match=re.escape(refusal)):
            freeze(source, asked, world)


def test_a_transformer_without_a_class_token_has_none(tmp_path: Path, world: World):
    source = write_stock(tmp_path / "m", "test_vit", class_token=False, global_pool="avg")
    with pytest.raises(ValueError, match=r"--features token: .*m has no class token; give --features mean or pooled"):
        freeze(source, "token", world)
    swept = freeze(source, "mean", world, blocks=(1, 4))
    assert swept.choices((1, 4)) == (swept.features,)
    assert torch.isfinite(swept(LARGER)).all()


def test_a_model_that_does_not_pool_is_refused(tmp_path: Path, world: World):
    source = write_stock(tmp_path / "m", "test_vit", global_pool="")
    with pytest.raises(ValueError, match=r"m gives 101 x 64 values an image, expected one row; write the model again"):
        freeze(source, "pooled", world)


def test_a_batch_of_any_size_is_computed_in_pieces(tmp_path: Path, world: World):
    source = write(tmp_path / "m", create_encoder(CONFIG))
    seen: list[int] = []
    for frozen in (freeze(source, "mean", world), freeze(source, "token", world, blocks=(2,))):
        frozen.model.get_submodule("patch_embed").register_forward_pre_hook(lambda _, some: seen.append(len(some[0])))
        features = frozen(IMAGES.repeat(110, 1, 1, 1))
        assert seen == [256, 256, 38]
        torch.testing.assert_close(features, frozen(IMAGES).repeat(110, 1))
        seen.clear()


def test_images_are_shown_as_the_model_was_evaluated(tmp_path: Path, world: World):
    own = write(tmp_path / "own", create_encoder(CONFIG))
    stock = write_stock(tmp_path / "stock", "test_resnet")
    pictures, measurements = Split("jpg", ()), Split("npy", (), dtype="uint16")
    assert evaluation_view(own, None, pictures) == CenterCrop((8, 12), 1.0)
    assert evaluation_view(own, 0.5, pictures) == CenterCrop((8, 12), 0.5)
    prepared = stock.preparation
    assert evaluation_view(stock, None, pictures) == StockView(
        (160, 160), prepared.interpolation, prepared.crop_fraction, "center", stock.normalization.mean
    )
    assert evaluation_view(stock, 0.5, pictures) == CenterCrop((160, 160), 0.5)
    assert evaluation_view(stock, None, measurements) == CenterCrop((160, 160), prepared.crop_fraction)
    assert isinstance(freeze(stock, "auto", world), FrozenEncoder)
