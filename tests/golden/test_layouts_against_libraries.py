"""Models written in the layouts of Transformers and facebook: the libraries load them whole, compute the same, and what
they write in turn is read back to the bit.
"""

import importlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models import load_checkpoint
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from data_pipeline.stock_view import StockView
from pretrain.backbone_config import BackboneConfig
from pretrain.backbones import restore
from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig
from pretrain.encoder import create_classifier, create_encoder
from pretrain.facebook_folder import facebook_config
from pretrain.interchange import read_weights, start_from
from pretrain.layout_writing import ARCHITECTURES, kind_of, shared_tensors, to_facebook, to_transformers
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.model_source import find_source
from pretrain.pixels import Normalization
from pretrain.preprocessor_file import read_preprocessor
from pretrain.transformers_folder import transformers_config

SIZES = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
NAMES = ("cat", "dog", "bird", "fish", "horse")
PREPARED = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 18},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 16, "width": 16},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
}


def filled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight counts, also biases, norms and positions, which are of no table."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            around = 1 if "norm" in name and name.endswith("weight") else 0
            parameter.copy_(around + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def encoder_config(**changes: Any) -> EncoderConfig:
    sizes = {"image_size": (16, 16), "patch_size": (4, 4), "width": 24, "depth": 2, "heads": 3}
    return EncoderConfig("vit_tiny_patch16_224", **(sizes | changes))


def autoencoder() -> MaskedAutoencoder:
    return MaskedAutoencoder(create_encoder(encoder_config()), DecoderConfig(16, 2, 4), ObjectiveConfig())


def wide_classifier() -> nn.Module:
    """Images and patches that are not square, and an MLP of another ratio, without biases of queries."""
    sizes = {**SIZES, "img_size": (24, 16), "patch_size": (8, 4)}
    return timm.create_model("vit_tiny_patch16_224", num_classes=5, mlp_ratio=3.0, qkv_bias=False, **sizes)


TRANSFORMERS: dict[str, Callable[[], nn.Module]] = {
    "encoder": lambda: create_encoder(encoder_config()),
    "classifier": lambda: create_classifier(encoder_config(), classes=5, pool="token", drop_path=0.1),
    "wide classifier": wide_classifier,
    "distilled": lambda: timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5, **SIZES),
    "autoencoder": autoencoder,
}
FACEBOOK: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "encoder": (TRANSFORMERS["encoder"], "VisionTransformer"),
    "classifier": (TRANSFORMERS["classifier"], "VisionTransformer"),
    "pooled classifier": (
        lambda: create_classifier(encoder_config(), classes=5, pool="mean", drop_path=0.0),
        "VisionTransformer",
    ),
    "distilled": (TRANSFORMERS["distilled"], "DistilledVisionTransformer"),
    "DeiT III": (lambda: timm.create_model("deit3_small_patch16_224", num_classes=5, **SIZES), "vit_models"),
}


def as_transformers(folder: Path, model: nn.Module, mask_ratio: float | None = None) -> Path:
    names = NAMES if getattr(model, "num_classes", 0) else None
    config = transformers_config(model, class_names=names, mask_ratio=mask_ratio)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared(config["image_size"])))
    tensors = to_transformers(shared_tensors(model), kind_of(model))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def as_facebook(folder: Path, model: nn.Module) -> Path:
    folder.mkdir()
    names = NAMES if getattr(model, "num_classes", 0) else None
    (folder / "config.json").write_text(json.dumps(facebook_config(model, class_names=names)))
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared(16)))
    torch.save({"model": to_facebook(shared_tensors(model))}, folder / "model.pth")
    return folder


def prepared(size: int | list[int]) -> dict[str, Any]:
    height, width = (size, size) if isinstance(size, int) else size
    return PREPARED | {"crop_size": {"height": height, "width": width}}


def images_for(model: nn.Module) -> Tensor:
    embed: Any = (model.encoder if isinstance(model, MaskedAutoencoder) else model).get_submodule("patch_embed")
    return torch.randn(3, 3, *embed.img_size, generator=torch.Generator().manual_seed(2))


def outputs(model: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images) if model.num_classes else model.forward_features(images)


def assert_same(tensors: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert tensors.keys() == others.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_transformers_loads_what_is_written_and_what_it_writes_is_read_to_the_bit(tmp_path: Path, kind: str):
    transformers = pytest.importorskip("transformers", minversion="5.0")
    model = filled(TRANSFORMERS[kind]())
    name = ARCHITECTURES[kind_of(model)]
    folder = as_transformers(tmp_path / "m", model, mask_ratio=0.75 if kind == "autoencoder" else None)
    arguments = {"add_pooling_layer": False} if name == "ViTModel" else {}
    make = getattr(transformers, name)
    theirs, info = make.from_pretrained(folder, output_loading_info=True, **arguments)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert transformers.AutoConfig.from_pretrained(folder).architectures == [name]
    images = images_for(model)
    theirs.eval()
    with torch.no_grad():
        if isinstance(model, MaskedAutoencoder):
            noise = torch.rand(3, model.patches, generator=torch.Generator().manual_seed(3))
            ours, found = model(images, noise).loss, theirs(images, noise=noise).loss
        elif kind == "encoder":
            ours, found = outputs(model, images), theirs(images).last_hidden_state
        else:
            ours, found = outputs(model, images), theirs(images).logits
            assert theirs.config.id2label == dict(enumerate(NAMES))
    torch.testing.assert_close(found, ours, rtol=0, atol=1e-5)
    for original in (True, False):
        theirs.save_pretrained(again := tmp_path / f"again {original}", save_original_format=original)
        if isinstance(model, MaskedAutoencoder):
            assert_same(read_weights(str(again), "-").tensors, dict(model.state_dict()))
            other = filled(TRANSFORMERS[kind](), seed=9)
            assert isinstance(other, MaskedAutoencoder)
            told = start_from(other, read_weights(str(again), "-"), new_decoder=False, option="-")
            assert len(told) == 3  # but for positions that are of no table nothing is worth telling
            assert_same(dict(other.state_dict()), dict(model.state_dict()))
        else:
            (again / "preprocessor_config.json").write_bytes((folder / "preprocessor_config.json").read_bytes())
            assert_same(find_source(str(again), "-").tensors(), dict(model.state_dict()))


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_a_folder_of_transformers_is_a_model_with_its_head(tmp_path: Path, kind: str):
    model = filled(TRANSFORMERS[kind]())
    folder = as_transformers(tmp_path / "m", model, mask_ratio=0.75 if kind == "autoencoder" else None)
    source = find_source(str(folder), "--model")
    has_head = kind not in ("encoder", "autoencoder")
    assert (source.classes, source.class_names) == ((5, NAMES) if has_head else (0, None))
    assert source.normalization == Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    images, inside = images_for(model), model.encoder if isinstance(model, MaskedAutoencoder) else model
    assert torch.equal(outputs(restore(source), images), outputs(inside, images))
    features: Any = restore(source, headless=True)
    assert features.num_classes == 0
    with torch.no_grad():
        assert torch.equal(features.forward_features(images), inside.forward_features(images))


@pytest.mark.parametrize("kind", FACEBOOK)
def test_timm_loads_facebooks_layout_and_it_is_a_model_with_its_head(tmp_path: Path, kind: str):
    build, name = FACEBOOK[kind]
    model, stock = filled(build()), build()
    folder = as_facebook(tmp_path / "m", model)
    described = json.loads((folder / "config.json").read_text())
    assert (described["model"], described["layer_norm_eps"]) == (name, 1e-6)
    adapt = partial(checkpoint_filter_fn, adapt_layer_scale=kind == "DeiT III")
    load_checkpoint(stock, str(folder / "model.pth"), strict=True, weights_only=True, filter_fn=adapt)
    images = images_for(model)
    assert torch.equal(outputs(stock.eval(), images), outputs(model, images))
    source = find_source(str(folder), "--model")
    assert (source.classes, source.class_names) == ((0, None) if kind == "encoder" else (5, NAMES))
    assert source.pool == {"pooled classifier": "mean", "encoder": "own"}.get(kind, "token")
    assert_same(source.tensors(), dict(model.state_dict()))
    assert torch.equal(outputs(restore(source), images), outputs(model, images))


def test_facebooks_autoencoder_is_read_back_to_the_bit_with_all_that_it_says(tmp_path: Path):
    model, other = filled(autoencoder()), filled(autoencoder(), seed=9)
    assert isinstance(model, MaskedAutoencoder)
    assert isinstance(other, MaskedAutoencoder)
    folder = as_facebook(tmp_path / "m", model)
    weights = read_weights(str(folder), "--init-from")
    assert (weights.layout, weights.stated.heads, weights.stated.decoder_heads) == ("facebook", 3, 4)
    told = start_from(other, weights, new_decoder=False, option="--init-from")
    assert len(told) == 3  # but for positions that are of no table nothing is worth telling
    assert_same(dict(other.state_dict()), dict(model.state_dict()))
    source = find_source(str(folder), "--init")
    images = images_for(model)
    assert torch.equal(outputs(restore(source), images), outputs(model.encoder, images))


@pytest.mark.parametrize("name", ["DeiTModel", "DeiTForImageClassification"])
def test_deits_of_transformers_without_a_teachers_head_compute_the_same_here(tmp_path: Path, name: str):
    transformers = pytest.importorskip("transformers", minversion="5.0")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    config = transformers.DeiTConfig(**sizes, image_size=16, patch_size=4, layer_norm_eps=1e-6, num_labels=4)
    theirs = filled(getattr(transformers, name)(config))
    theirs.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPARED))
    source = find_source(str(tmp_path), "--init")
    assert (source.classes, source.class_names) == (0 if name == "DeiTModel" else 4, None)
    model, images = restore(source), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = theirs(images)
    expected = found.last_hidden_state if name == "DeiTModel" else found.logits
    torch.testing.assert_close(outputs(model, images), expected, rtol=0, atol=1e-5)


def test_norms_of_another_epsilon_are_those_of_the_model_and_are_told_of(tmp_path: Path):
    transformers = pytest.importorskip("transformers", minversion="5.0")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    theirs = filled(
        transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, image_size=16, patch_size=4))
    )
    with torch.no_grad():  # small enough that the epsilon counts
        theirs.vit.embeddings.position_embeddings.mul_(1e-3)
        theirs.vit.embeddings.cls_token.mul_(1e-3)
        theirs.vit.embeddings.patch_embeddings.projection.weight.mul_(1e-3)
        theirs.vit.embeddings.patch_embeddings.projection.bias.mul_(1e-3)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPARED))
    source = find_source(str(tmp_path), "--init")
    assert source.remarks == (
        "its norms add 1e-12 to the variance, here it is 1e-06: what the model computes is a little different",
    )
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = restore(source)
    with torch.no_grad():
        expected = theirs(images).logits
    torch.testing.assert_close(outputs(model, images), expected, rtol=0, atol=1e-5)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    assert (outputs(model, images) - expected).abs().max() > 1e-4


def test_a_backbone_is_named_as_timm_names_its_sizes(tmp_path: Path):
    model = filled(
        create_encoder(EncoderConfig("vit_tiny_patch16_224", (16, 16), (8, 8), width=192, depth=12, heads=3))
    )
    source = find_source(str(as_transformers(tmp_path / "m", model)), "--init")
    assert source.backbone == BackboneConfig("vit_tiny_patch16_224", (16, 16), (8, 8), 3, 192, 12, 3)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("ViT", {"size": {"height": 48, "width": 48}}),
        ("DeiT", {"size": {"height": 56, "width": 56}, "crop_size": {"height": 48, "width": 48}}),
        ("Bit", {"size": {"shortest_edge": 54}, "crop_size": {"height": 48, "width": 48}}),
        ("CLIP", {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}),
    ],
)
def test_pixels_are_those_of_the_image_processor(tmp_path: Path, name: str, sizes: dict[str, Any]):
    pytest.importorskip("transformers", minversion="5.0")
    inside = importlib.import_module(f"transformers.models.{name.lower()}.image_processing_pil_{name.lower()}")
    processor = getattr(inside, f"{name}ImageProcessorPil")(**sizes)
    processor.save_pretrained(tmp_path)
    normalization, how = read_preprocessor(tmp_path / "preprocessor_config.json", (48, 48), 3)
    noise = np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((131, 97), Image.Resampling.BICUBIC)
    view = StockView((48, 48), how.interpolation, how.crop_fraction, how.crop_mode, normalization.mean)
    ours = normalization.normalize(torch.from_numpy(view.prepare(np.asarray(picture)))[None])
    theirs = torch.as_tensor(np.asarray(processor(picture, return_tensors="pt")["pixel_values"]))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
