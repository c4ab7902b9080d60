"""Any timm model: built as asked for, written and restored to the bit, and started from at other sizes."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from pretrain.architectures import complete, create_backbone, is_plain, keywords
from pretrain.backbone_config import BackboneConfig
from pretrain.backbones import head_names, load_other, load_plain, restore
from pretrain.model_folder import Prepared, save_folder
from pretrain.model_source import ModelSource, find_source
from pretrain.pixels import Normalization

NORMALIZATION = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
SWIN = ("embed_dim=12", "depths=(1,1,1,1)", "num_heads=(1,1,2,2)", "window_size=4")
FAMILIES = {
    "Swin": BackboneConfig("swin_tiny_patch4_window7_224", (32, 32), arguments=SWIN),
    "PVT v2": BackboneConfig(
        "pvt_v2_b0", (32, 32), arguments=("depths=(1,1,1,1)", "embed_dims=(8,8,16,16)", "num_heads=(1,1,2,2)")
    ),
    "CoAtNet": BackboneConfig("test_coatnet", (64, 64)),
    "ResNet-ViT": BackboneConfig("vit_tiny_r_s16_p8_224", (64, 64), width=24, depth=2, heads=2),
    "ConvNeXt": BackboneConfig("test_convnext", (32, 32)),
    "ResNet": BackboneConfig("test_resnet", (32, 32)),
    "EfficientNet": BackboneConfig("test_efficientnet", (32, 32)),
    "distilled ViT": BackboneConfig("deit_tiny_distilled_patch16_224", (32, 32), width=24, depth=2, heads=2),
    "ViT": BackboneConfig("vit_tiny_patch16_224", (32, 32), (16, 16), width=24, depth=2, heads=2),
}
PLAIN = FAMILIES["ViT"]


def create(config: BackboneConfig, classes: int = 4, seed: int = 0) -> nn.Module:
    return create_backbone(complete(config), classes=classes, pool="own", drop_path=0.1, seed=seed).eval()


def images(config: BackboneConfig) -> torch.Tensor:
    return torch.rand(2, config.channels, *config.size, generator=torch.Generator().manual_seed(1))


def written(path: Path, config: BackboneConfig, classes: int = 4) -> tuple[ModelSource, nn.Module]:
    model = create(config, classes)
    for module in model.modules():  # not what a fresh model has: 0 and 1 would hide that they were not loaded
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, generator=torch.Generator().manual_seed(2))
            module.num_batches_tracked.fill_(7)
    names = tuple(f"class {number}" for number in range(classes)) if classes else None
    prepared = Prepared((config.channels, *config.size), NORMALIZATION, 0.9)
    save_folder(path, model, keywords(complete(config), "own"), prepared, class_names=names, guard=None)
    return find_source(str(path), "--init"), model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_written_model_is_restored_to_the_bit(tmp_path: Path, family: str):
    config = FAMILIES[family]
    source, model = written(tmp_path / "m", config)
    assert source.backbone.size == config.size
    assert source.normalization == NORMALIZATION
    assert source.class_names == ("class 0", "class 1", "class 2", "class 3")
    assert source.is_ours
    shown = images(config)
    with torch.no_grad():
        expected = model(shown)
        assert torch.equal(restore(source)(shown), expected)
        assert torch.equal(timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()(shown), expected)
        features = restore(source, headless=True)(shown)
    assert features.shape == (2, model.num_features)


@pytest.mark.parametrize("family", FAMILIES)
def test_new_weights_belong_to_the_seed_and_to_no_global_state(family: str):
    before = torch.random.get_rng_state()
    models = [create(FAMILIES[family], seed=seed).state_dict() for seed in (3, 3, 4)]
    assert torch.equal(torch.random.get_rng_state(), before)
    same = [all(torch.equal(models[0][name], other[name]) for name in other) for other in models[1:]]
    assert same == [True, False]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "ViT"])
def test_a_classifier_starts_from_one_of_other_classes_and_another_size(tmp_path: Path, family: str):
    config = FAMILIES[family]
    source, _ = written(tmp_path / "m", config)
    larger = replace(source.backbone, image_size=(config.size[0] * 2, config.size[1] * 2))
    model = create_backbone(larger, classes=7, pool="own", drop_path=0.0, seed=1)
    loaded = load_other(model, source, keeps_head=False)
    assert set(loaded.fresh) == set(head_names(model)) == set(loaded.left_out)
    own, theirs = model.state_dict(), source.tensors()
    unchanged = [name for name in own if name not in loaded.fresh and own[name].shape == theirs[name].shape]
    assert all(torch.equal(own[name], theirs[name]) for name in unchanged)
    resized = {sentence.split()[0] for sentence in loaded.resized}
    assert resized == {name for name in own if name not in loaded.fresh and name not in unchanged}
    assert bool(resized) == (family in ("Swin", "CoAtNet", "ResNet-ViT", "distilled ViT"))
    with torch.no_grad():
        assert model(images(larger)).isfinite().all()


def test_a_patch_embedding_for_larger_patches_gives_the_same_tokens(tmp_path: Path):
    config = replace(PLAIN, image_size=(32, 64), patch_size=(8, 8))
    source, before = written(tmp_path / "m", config)
    twice = replace(complete(config), image_size=(64, 128), patch_size=(16, 16))
    model = create_backbone(twice, classes=4, pool="own", drop_path=0.0, seed=1).eval()
    loaded = load_plain(model, source, twice.plain, "facebook", keeps_head=True)
    assert loaded.fresh == loaded.left_out == ()
    assert loaded.resized == (
        "patch embedding resampled from 8 x 8 to 16 x 16 pixels by the pseudo-inverse of bicubic resizing, as FlexiViT "
        "does",
    )
    small = images(complete(config))
    large = nn.functional.interpolate(small, (64, 128), mode="bicubic", antialias=True)
    tokens = [one.patch_embed.proj(shown) for one, shown in ((before, small), (model, large))]
    # Each patch is resized together with its neighbours here, and alone by the method.
    difference = (tokens[0] - tokens[1]).abs().mean() / tokens[0].abs().mean()
    assert difference < 0.1
    alone = small.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)  # (patches, 3, 8, 8)
    resized = nn.functional.interpolate(alone, (16, 16), mode="bicubic", antialias=True)
    torch.testing.assert_close(model.patch_embed.proj(resized), before.patch_embed.proj(alone), atol=1e-4, rtol=1e-4)


def test_a_folder_that_timm_wrote_is_read_without_sherds_mark(tmp_path: Path):
    model = timm.create_model("test_resnet", num_classes=3).eval()
    save_for_hf(model, str(tmp_path / "stock"), model_config={"label_names": ["a", "b", "c"]}, safe_serialization=True)
    source = find_source(str(tmp_path / "stock"), "--model")
    assert not source.is_ours
    assert source.backbone.size == (160, 160)
    assert (source.preparation.interpolation, source.preparation.crop_fraction) == ("bilinear", 0.95)
    assert source.class_names == ("a", "b", "c")
    shown = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(restore(source)(shown), model(shown))


def test_a_pickled_folder_is_read_without_running_it(tmp_path: Path):
    model = timm.create_model("test_resnet", num_classes=3).eval()
    save_for_hf(model, str(tmp_path / "stock"), safe_serialization=False)
    source = find_source(str(tmp_path / "stock"), "--model")
    assert all(torch.equal(tensor, source.tensors()[name]) for name, tensor in model.state_dict().items())


def test_what_cannot_be_built_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"--encoder.name resnet5 is no model of timm .*; the closest: resnet"):
        complete(BackboneConfig("resnet5"))
    with pytest.raises(ValueError, match=r"cannot build test_resnet with .*depth=3.*; change --image-size"):
        create(BackboneConfig("test_resnet", depth=3))
    with pytest.raises(ValueError, match=r"--encoder.arguments expects name=value, such as window_size=8, got 'depth'"):
        BackboneConfig("test_resnet", arguments=("depth",))
    source, _ = written(tmp_path / "m", FAMILIES["ResNet"])
    (tmp_path / "m" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"model.safetensors is not a readable safetensors file"):
        restore(source)
    with pytest.raises(ValueError, match=r"--init .*nowhere: expected a run folder .*, found no such folder"):
        find_source(str(tmp_path / "nowhere"), "--init")


def test_weights_alone_need_an_architecture(tmp_path: Path):
    model = create(PLAIN, classes=0)
    torch.save({"model": model.state_dict()}, tmp_path / "mae.pth")
    with pytest.raises(ValueError, match=r"--model .*mae.pth: expected a folder with a timm model"):
        find_source(str(tmp_path / "mae.pth"), "--model")
    source = find_source(str(tmp_path / "mae.pth"), "--init", like=PLAIN)
    assert is_plain(source.backbone)
    assert all(torch.equal(tensor, source.tensors()[name]) for name, tensor in model.state_dict().items())


def test_sizes_left_open_are_timms(tmp_path: Path):
    found = complete(BackboneConfig("vit_base_patch32_384"))
    assert (found.image_size, found.patch_size) == ((384, 384), (32, 32))
    assert complete(BackboneConfig("resnet50")).patch_size is None
