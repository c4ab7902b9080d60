"""What a classifier starts with: the encoder's weights where they belong, the rest new, misfits refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from timm.layers.patch_embed import resample_patch_embed

from finetune.classify_config import ClassifyConfig
from pretrain.backbone_config import BackboneConfig
from pretrain.classifier import build_classifier, resolve
from pretrain.config import EncoderConfig, OptimizerConfig
from pretrain.encoder import create_encoder, initialize_encoder
from pretrain.model_folder import save_model
from pretrain.pixels import Normalization
from pretrain.positions import interpolate_positions

SIZE = EncoderConfig("vit_tiny_patch16_224", (8, 8), (2, 2), width=24, depth=2, heads=2)
BACKBONE = BackboneConfig("vit_tiny_patch16_224", (8, 8), (2, 2), width=24, depth=2, heads=2)
CONFIG = ClassifyConfig(encoder=BACKBONE, epochs=10.0, batch_size=8, optimizer=OptimizerConfig(warmup_epochs=1.0))
NORMALIZATION = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    model = create_encoder(SIZE)
    initialize_encoder(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.norm.weight.fill_(3)
    save_model(tmp_path / "encoder", model, SIZE, NORMALIZATION)
    return tmp_path / "encoder"


NAMES = ("a", "b", "c", "d", "e")


def build(config: ClassifyConfig, names: tuple[str, ...] = NAMES) -> tuple[torch.nn.Module, list[str]]:
    said: list[str] = []
    resolved, source = resolve(config)
    return build_classifier(resolved, source, names, said.append), said


def test_mean_pooling_has_a_norm_of_its_own(encoder: Path):
    model, said = build(replace(CONFIG, init=str(encoder)))
    source = timm.create_model(f"local-dir:{encoder}", pretrained=True)
    own, theirs = model.state_dict(), source.state_dict()
    for name in theirs.keys() - {"norm.weight", "norm.bias"}:
        assert torch.equal(own[name], theirs[name]), name
    assert torch.equal(own["fc_norm.weight"], torch.ones(24)), "never the encoder's norm in silence"
    assert not any(name.startswith("norm.") for name in own)
    assert said[0] == "image_size: 8 x 8 (from checkpoint)"
    assert "new: fc_norm.weight, fc_norm.bias, head.weight, head.bias, left out: norm.weight, norm.bias" in said[1]


def test_the_class_token_keeps_the_encoders_norm(encoder: Path):
    model, said = build(replace(CONFIG, init=str(encoder), pool="token"))
    assert torch.equal(model.state_dict()["norm.weight"], torch.full((24,), 3.0))
    assert "new: head.weight, head.bias" in said[1]


def test_a_new_head_is_small_and_belongs_to_the_seed(encoder: Path):
    config = replace(CONFIG, init=str(encoder), head_std=2e-5)
    weights = [build(replace(config, seed=seed))[0].state_dict()["head.weight"] for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert 1.4e-5 < weights[0].std().item() < 2.5e-5


@pytest.mark.parametrize("mode", ["facebook", "timm"])
def test_positions_for_another_size(encoder: Path, mode: str):
    model, said = build(replace(CONFIG, init=str(encoder), image_size=(12, 8), interpolation=mode))
    before = timm.create_model(f"local-dir:{encoder}", pretrained=True).pos_embed.detach()
    expected = interpolate_positions(before, (4, 4), (6, 4), mode)
    assert torch.equal(model.state_dict()["pos_embed"], expected)
    assert said[:2] == [
        "image_size: 12 x 8 (as asked for)",
        f"positions interpolated from 4 x 4 to 6 x 4 patches as {mode} does",
    ]
    assert model(torch.zeros(1, 3, 12, 8)).shape == (1, 5)


def test_sizes_come_from_the_encoder(encoder: Path):
    config, source = resolve(replace(CONFIG, init=str(encoder), encoder=replace(BACKBONE, width=48, depth=3, heads=4)))
    assert config.encoder == BACKBONE
    assert source is not None
    assert source.normalization == NORMALIZATION


def test_from_scratch_everything_is_new():
    model, said = build(replace(CONFIG, init="none", image_size=(16, 16)))
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert model.patch_embed.grid_size == (8, 8)
    assert said == ["image_size: 16 x 16; all weights are new (seed 0)"]


def test_another_patch_size_resamples_the_embedding(encoder: Path):
    model, said = build(replace(CONFIG, init=str(encoder), patch_size=(4, 4)))
    before = timm.create_model(f"local-dir:{encoder}", pretrained=True)
    expected = resample_patch_embed(before.patch_embed.proj.weight.detach(), [4, 4])
    assert torch.equal(model.state_dict()["patch_embed.proj.weight"], expected)
    assert said[1:3] == [
        "positions interpolated from 4 x 4 to 2 x 2 patches as facebook does",
        "patch embedding resampled from 2 x 2 to 4 x 4 pixels by the pseudo-inverse of bicubic resizing, as FlexiViT "
        "does",
    ]
    with pytest.raises(ValueError, match=r"--encoder.image-size 8 is not divisible by the patch size 3; the nearest"):
        resolve(replace(CONFIG, init=str(encoder), patch_size=(3, 3)))


def test_facebooks_weights_start_the_recipes_encoder(encoder: Path, tmp_path: Path):
    tensors = timm.create_model(f"local-dir:{encoder}", pretrained=True).state_dict()
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 24)}
    torch.save({"model": tensors | decoder}, tmp_path / "mae.pth")
    model, said = build(replace(CONFIG, init=str(tmp_path / "mae.pth")))
    assert torch.equal(model.state_dict()["blocks.1.mlp.fc1.weight"], tensors["blocks.1.mlp.fc1.weight"])
    assert said[0] == "image_size: 8 x 8 (from checkpoint)"


def test_the_models_own_pooling(encoder: Path):
    config, _ = resolve(replace(CONFIG, init=str(encoder), pool="own"))
    assert config.pool == "token"
    config, _ = resolve(replace(CONFIG, init="none", pool="own", encoder=BackboneConfig("test_resnet")))
    assert (config.pool, config.encoder.image_size) == ("own", (160, 160))


def test_a_head_is_kept_only_for_as_many_classes(encoder: Path, tmp_path: Path):
    model, _ = build(replace(CONFIG, init=str(encoder), head_std=0.5))
    save_model(tmp_path / "model", model, SIZE, NORMALIZATION, class_names=NAMES)
    config = replace(CONFIG, init=str(tmp_path / "model"), head="keep")
    kept, _ = build(config)
    assert all(torch.equal(kept.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match=r"--head keep: the head of .*model is for 5 classes, the data have 7; drop"):
        build(config, names=(*NAMES, "f", "g"))
    with pytest.raises(
        ValueError, match=r"has classes of the data in another order: its number 0 is 'a', that of the data 'b'"
    ):
        build(config, names=("b", "a", "c", "d", "e"))
    with pytest.raises(
        ValueError, match=r"--head keep: .*encoder has no head, expected one for 5 classes; drop --head keep"
    ):
        build(replace(config, init=str(encoder)))
    fresh, said = build(replace(config, head="fresh"), names=(*NAMES, "f", "g"))
    assert fresh.state_dict()["head.weight"].shape == (7, 24)
    assert "left out: head.weight, head.bias, fc_norm.weight, fc_norm.bias" in said[1]


def test_what_is_no_model_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"--init .*nowhere: expected a run folder .*, found no such folder"):
        resolve(replace(CONFIG, init=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"found a folder without config\.json"):
        resolve(replace(CONFIG, init=str(tmp_path)))
