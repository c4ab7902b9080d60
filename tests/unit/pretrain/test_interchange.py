"""Weights of others: recognised by their names, loaded whole, or refused with what would help."""

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig
from pretrain.encoder import create_encoder, sincos_positions
from pretrain.interchange import Weights, read_weights, start_from
from pretrain.masked_autoencoder import MaskedAutoencoder

OPTION = "--init-from"
Tensors = dict[str, Tensor]


@cache
def encoder_of(config: EncoderConfig) -> VisionTransformer:
    return create_encoder(config)


def build(seed: int = 0, name: str = "vit_tiny_patch16_224", decoder: DecoderConfig | None = None, **changes: Any):
    sizes = {"image_size": (16, 16), "patch_size": (4, 4), "width": 24, "depth": 2, "heads": 3} | changes
    encoder = deepcopy(encoder_of(EncoderConfig(name, **sizes)))
    model = MaskedAutoencoder(encoder, decoder or DecoderConfig(width=16, depth=2, heads=4), ObjectiveConfig())
    model.initialize(torch.Generator().manual_seed(seed))
    return model


def facebooks(model: MaskedAutoencoder) -> Tensors:
    return {name.removeprefix("encoder."): tensor for name, tensor in model.state_dict().items()}


def timms(model: MaskedAutoencoder) -> Tensors:
    return dict(model.encoder.state_dict())


def transformers_encoder(model: MaskedAutoencoder) -> Tensors:
    """As Transformers' ViTModel is kept on a disk."""
    own = timms(model)
    top = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    block = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    tensors = {theirs: own.pop(ours) for ours, theirs in top.items()}
    for name, tensor in own.items():
        index, _, inner = name.removeprefix("blocks.").partition(".")
        module, _, kind = inner.rpartition(".")
        if module == "attn.qkv":
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                tensors[f"encoder.layer.{index}.attention.attention.{part}.{kind}"] = piece.contiguous()
        else:
            tensors[f"encoder.layer.{index}.{block[module]}.{kind}"] = tensor
    return tensors


def write(path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> Path:
    """A .pth as facebook writes it, a .safetensors file, or a folder with config.json."""
    if path.suffix == ".pth":
        torch.save({"model": dict(tensors)}, path)
    elif path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        path.mkdir()
        write(path / "model.safetensors", tensors)
        (path / "config.json").write_text(json.dumps(config))
    return path


def refused_reading(path: Path) -> str:
    with pytest.raises(ValueError, match=f"^{OPTION} ") as caught:
        read_weights(str(path), OPTION)
    return str(caught.value)


def refused_start(model: MaskedAutoencoder, weights: Weights, *, new_decoder: bool = False) -> str:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"^{OPTION} {weights.where}") as caught:
        start_from(model, weights, new_decoder=new_decoder, option=OPTION)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return str(caught.value)


@pytest.fixture
def given(tmp_path: Path) -> Callable[..., Weights]:
    """Weights of a file with these tensors."""

    def read(tensors: Mapping[str, Tensor], name: str = "mae.pth", config: Mapping[str, Any] | None = None) -> Weights:
        return read_weights(str(write(tmp_path / name, tensors, config)), OPTION)

    return read


# Reading.


@pytest.mark.parametrize(
    ("layout", "name", "parts"),
    [
        ("facebook", "mae.pth", facebooks),
        ("facebook", "mae.safetensors", facebooks),
        ("facebook", "encoder.pth", timms),
        ("timm", "vit.safetensors", timms),
        ("timm", "folder", timms),
        ("transformers", "vit.pth", transformers_encoder),
        ("transformers", "folder", transformers_encoder),
    ],
)
def test_names_say_the_layout(given: Callable[..., Weights], layout: str, name: str, parts: Callable[..., Tensors]):
    model = build(1)
    weights = given(parts(model), name, {})
    assert (weights.layout, weights.has_decoder) == (layout, parts is facebooks)
    state = model.state_dict()
    expected = {n for n in state if n.startswith("encoder.") or parts is facebooks}
    assert weights.tensors.keys() == expected
    assert all(torch.equal(tensor, state[name]) for name, tensor in weights.tensors.items())


def test_names_of_no_layout_are_refused(tmp_path: Path):
    path = write(tmp_path / "resnet.safetensors", {"conv1.weight": torch.ones(2), "fc.bias": torch.ones(2)})
    assert refused_reading(path) == (
        f"--init-from {path}: not in the layout of facebook's MAE, timm or Transformers: found conv1.weight, fc.bias; "
        "expected patch_embed.proj.weight or embeddings.patch_embeddings.projection.weight, and what goes with it"
    )
    ours = write(tmp_path / "model.safetensors", build().state_dict())
    assert refused_reading(ours) == (
        f"--init-from {ours}: the weights of a checkpoint of sherd; give its folder, or the run's"
    )


@pytest.mark.parametrize(
    ("extra", "feature"),
    [
        ("reg_token", "reg_token (register tokens)"),
        ("dist_token", "dist_token (a distillation token)"),
        ("norm_pre.weight", "norm_pre.weight (a norm before the blocks)"),
        ("blocks.1.mlp.w12.weight", "blocks.1.mlp.w12.weight (a gated MLP (SwiGLU))"),
        ("blocks.0.attn.rescale", "blocks.0.attn.rescale"),
        ("module.norm.weight", "module.norm.weight"),
    ],
)
def test_names_that_a_layout_does_not_have_are_refused(tmp_path: Path, extra: str, feature: str):
    path = write(tmp_path / "x.pth", {**facebooks(build()), extra: torch.ones(2)})
    assert refused_reading(path) == (
        f"--init-from {path}: not a plain vision transformer or masked autoencoder in the layout of facebook: unknown "
        f"{feature}; missing or in unlike pieces none; give weights of a plain one"
    )


def test_of_transformers_a_lone_query_unlike_pieces_and_doubles_are_refused(tmp_path: Path):
    tensors = transformers_encoder(build())
    del tensors["encoder.layer.1.attention.attention.key.weight"]
    tensors["encoder.layer.0.attention.attention.value.bias"] = torch.ones(7)
    tensors["vit.layernorm.weight"] = torch.ones(24)
    tensors["embeddings.mask_token"] = torch.ones(1, 1, 24)
    told = refused_reading(write(tmp_path / "x.safetensors", tensors))
    assert "in the layout of transformers: unknown " in told
    unknown, missing = told.partition("unknown ")[2].split("; missing or in unlike pieces ")
    assert sorted(unknown.split(", ")) in (
        ["embeddings.mask_token", "vit.layernorm.weight"],
        ["embeddings.mask_token", "layernorm.weight"],  # whichever comes later
    )
    names = sorted(missing.partition(";")[0].split(", "))
    assert names == ["blocks.0.attn.qkv.bias", "blocks.1.attn.qkv.weight"]


def test_another_activation_is_refused(tmp_path: Path):
    config = {"model_type": "vit", "hidden_act": "quick_gelu"}
    path = write(tmp_path / "x", transformers_encoder(build()), config)
    assert refused_reading(path) == (
        f"--init-from {path}: its blocks have the activation quick_gelu, expected gelu; give other weights"
    )


# Starting.

HEADS = "; and the --{}.heads that they were trained with, which they do not say"


def test_all_is_loaded_and_what_the_file_does_not_say_is_said(given: Callable[..., Weights]):
    weights, model = given(facebooks(build(1))), build(2)
    assert start_from(model, weights, new_decoder=False, option=OPTION) == [
        f"starting with the weights of {weights.where}: encoder and decoder, 62 tensors, in the layout of facebook",
        "the weights do not say how many heads their blocks have: taken as --encoder.heads 3 and --decoder.heads 4",
        "the weights do not say whether their targets were normalised: taken as --objective.normalize-targets",
    ]
    assert all(torch.equal(tensor, weights.tensors[name]) for name, tensor in model.state_dict().items())
    assert not model.encoder.get_parameter("pos_embed").requires_grad


def test_an_encoder_alone_is_refused_with_the_reason(given: Callable[..., Weights]):
    weights = given(timms(build(1)), "mae_pretrain_vit_tiny.pth")
    assert refused_start(build(), weights) == (
        f"--init-from {weights.where}: holds an encoder only: masked autoencoding needs a decoder (of the released "
        "files mae_pretrain_vit_* leave it out, mae_visualize_vit_* have it); pass --new-decoder to begin a new one, "
        "or give weights with both"
    )


@pytest.mark.parametrize("parts", [timms, facebooks])
def test_a_new_decoder_stays_as_it_was_initialised(given: Callable[..., Weights], parts: Callable[..., Tensors]):
    # That of the file need not fit.
    weights = given(parts(build(1, decoder=DecoderConfig(width=32, depth=1, heads=2))))
    model, before = build(2), build(2).state_dict()
    told = start_from(model, weights, new_decoder=True, option=OPTION)
    assert f"the weights of {weights.where}: encoder, 30 tensors" in told[0]
    if parts is timms:
        assert "the decoder begins anew (--new-decoder): the weights have none" in told
    else:
        why = (
            "of the weights mask_token, decoder_pos_embed, decoder_embed.weight, decoder_embed.bias, decoder_blocks.0."
        )
        assert any(line.startswith(f"the decoder begins anew (--new-decoder): {why}") for line in told)
    assert told[-1] == "the weights do not say how many heads their blocks have: taken as --encoder.heads 3"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights.tensors[name] if name.startswith("encoder.") else before[name]), name


def test_a_mask_token_alone_is_no_decoder(given: Callable[..., Weights]):
    weights = given({**timms(build(1)), "mask_token": torch.ones(1, 1, 24)})
    assert "holds an encoder only" in refused_start(build(), weights)
    told = start_from(build(), weights, new_decoder=True, option=OPTION)
    assert "the decoder begins anew (--new-decoder): of the weights mask_token are left out" in told


@pytest.mark.parametrize(
    ("changes", "shape", "fix"),
    [
        (
            {"width": 48},
            "encoder.blocks.0.attn.proj.bias [48] instead of [24]",
            "--encoder.width 48" + HEADS.format("encoder"),
        ),
        (
            {"patch_size": (2, 8)},
            "encoder.patch_embed.proj.weight [24, 3, 2, 8] instead of",
            "--encoder.patch-size 2 8",
        ),
        ({"channels": 1}, "encoder.patch_embed.proj.weight [24, 1, 4, 4] instead of", "--encoder.channels 1"),
        ({"depth": 3}, "not expected encoder.blocks.2.attn.proj.bias,", "--encoder.depth 3"),
        ({"depth": 1}, "missing encoder.blocks.1.attn.proj.bias,", "--encoder.depth 1"),
        (
            {"decoder": DecoderConfig(32, 2, 4)},
            "decoder_blocks.0.attn.proj.bias [32] instead of [16]",
            "--decoder.width 32" + HEADS.format("decoder"),
        ),
        ({"decoder": DecoderConfig(16, 1, 4)}, "missing decoder_blocks.1.attn.proj.bias,", "--decoder.depth 1"),
        (
            {"width": 48, "depth": 1, "decoder": DecoderConfig(32, 3, 4)},
            "not expected decoder_blocks.2.",
            "--encoder.width 48 --decoder.width 32 --encoder.depth 1 --decoder.depth 3"
            + HEADS.format("encoder")
            + HEADS.format("decoder"),
        ),
    ],
    ids=str,
)
def test_other_sizes_are_refused_with_the_options_that_fit(
    given: Callable[..., Weights], changes: dict[str, Any], shape: str, fix: str
):
    told = refused_start(build(), given(facebooks(build(1, **changes))))
    assert " does not fit the model: missing " in told
    assert shape in told
    assert told.endswith(f"; pass {fix}")


def test_a_missing_tensor_and_one_of_another_shape_without_an_option_are_named(given: Callable[..., Weights]):
    tensors = facebooks(build(1))
    del tensors["blocks.0.attn.qkv.bias"]
    tensors["blocks.0.mlp.fc1.bias"] = torch.ones(48)
    weights = given(tensors)
    assert refused_start(build(), weights) == (
        f"--init-from {weights.where} does not fit the model: missing encoder.blocks.0.attn.qkv.bias; not expected "
        "none; of another shape encoder.blocks.0.mlp.fc1.bias [48] instead of [96]; choose an --encoder.name, or other "
        "weights, so that they fit"
    )


def test_heads_that_config_json_states_must_be_those_of_the_model(given: Callable[..., Weights]):
    stated = {"architecture": "vit_tiny_patch16_224", "model_args": {"num_heads": 6}}
    told = refused_start(build(), given(timms(build(1)), "a", stated), new_decoder=True)
    assert told.endswith("of another shape none; encoder.heads 6 instead of 3; pass --encoder.heads 6")
    # Where they are not among the arguments they are the architecture's.
    weights = given(timms(build(1)), "b", {"architecture": "vit_small_patch16_224"})
    assert weights.stated.heads == 6
    theirs = {"model_type": "vit_mae", "num_attention_heads": 3, "decoder_num_attention_heads": 2}
    told = refused_start(build(), given(facebooks(build(1)), "c", theirs))
    assert told.endswith("decoder.heads 2 instead of 4; pass --decoder.heads 2")
    assert given(timms(build(1)), "d", {"architecture": "not_of_timm"}).stated.heads is None


def test_what_the_plain_encoder_lacks_is_named_and_an_encoder_that_has_it_takes_it(given: Callable[..., Weights]):
    theirs = build(1, name="vit_small_patch14_dinov2")
    assert "encoder.blocks.0.ls1.gamma" in theirs.state_dict()
    weights = given(timms(theirs))
    told = refused_start(build(), weights, new_decoder=True)
    assert "not expected encoder.blocks.0.ls1.gamma, encoder.blocks.0.ls2.gamma," in told
    assert told.endswith("; choose an --encoder.name like that of the weights: they differ in layer scale")
    start_from(build(name="vit_small_patch14_dinov2"), weights, new_decoder=True, option=OPTION)
    norms = {
        f"blocks.{i}.attn.{n}_norm.{kind}": torch.ones(8) for i in (0, 1) for n in "qk" for kind in ("weight", "bias")
    }
    told = refused_start(build(), given({**timms(build(1)), **norms}), new_decoder=True)
    assert told.endswith("they differ in query-key norms")


def test_a_classifier_leaves_its_head_and_never_gives_its_pooled_norm_for_the_final_one(given: Callable[..., Weights]):
    tensors = timms(build(1))
    head = {"head.weight": torch.ones(5, 24), "head.bias": torch.ones(5)}
    tensors |= {f"fc_norm.{kind}": tensors.pop(f"norm.{kind}") + 3 for kind in ("weight", "bias")}
    weights, model = given({**tensors, **head}), build(2)
    assert weights.left_out == ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias")
    told = start_from(model, weights, new_decoder=True, option=OPTION)
    assert told[1:4] == [
        "left out of it: fc_norm.weight, fc_norm.bias: the norm of a classifier's pooled patches",
        "left out of it: head.weight, head.bias: the head of a classifier",
        "the encoder's final norm begins anew: the weights have one after pooling instead",
    ]
    assert torch.equal(model.encoder.norm.weight, torch.ones(24))
    # Without a norm of either kind something is missing.
    without = given({name: tensor for name, tensor in tensors.items() if "fc_norm" not in name})
    assert "missing encoder.norm.bias, encoder.norm.weight;" in refused_start(build(), without, new_decoder=True)


def test_norms_of_another_epsilon_are_told_of(given: Callable[..., Weights]):
    sizes = {"model_type": "vit_mae", "num_attention_heads": 3, "decoder_num_attention_heads": 4, "norm_pix_loss": True}
    for name, config in {"said": sizes | {"layer_norm_eps": 1e-12}, "Transformers' own": sizes}.items():
        told = start_from(build(), given(facebooks(build(1)), name, config), new_decoder=False, option=OPTION)
        assert told[1:] == [
            "its norms add 1e-12 to the variance, here it is 1e-06: what the model computes is a little different"
        ]
    same = given(facebooks(build(1)), "same", sizes | {"layer_norm_eps": 1e-6})
    assert len(start_from(build(), same, new_decoder=False, option=OPTION)) == 1


def test_a_folder_of_facebooks_layout_says_what_its_file_does_not(given: Callable[..., Weights]):
    arguments = {"img_size": [8, 32], "num_heads": 3, "decoder_num_heads": 4, "norm_pix_loss": False}
    config = {"model": "MaskedAutoencoderViT", "arguments": arguments, "layer_norm_eps": 1e-6}
    stated = given(facebooks(build(1)), "a", config).stated
    assert (stated.heads, stated.decoder_heads, stated.image_size, stated.normalize_targets) == (3, 4, (8, 32), False)


def test_positions_are_interpolated_as_the_layout_does_it_and_learned_ones_kept(given: Callable[..., Weights]):
    weights, wide = given(facebooks(build(1, image_size=(8, 32)))), build(2, image_size=(16, 24))
    told = start_from(wide, weights, new_decoder=False, option=OPTION)
    method = "bicubic without antialiasing, as MAE's released code does it"
    assert told[1:3] == [
        f"positions of the {part} interpolated from 2 x 8 to 4 x 6 patches, {method}" for part in ("encoder", "decoder")
    ]
    assert wide.decoder_pos_embed.shape == (1, 25, 16)
    assert not torch.allclose(wide.decoder_pos_embed[0], sincos_positions((4, 6), 16), atol=0.1)
    assert not wide.decoder_pos_embed.requires_grad

    learned = timms(build(1))
    learned["pos_embed"] = torch.randn(1, 17, 24, generator=torch.Generator().manual_seed(0))
    same, smaller = build(2), build(2, image_size=(8, 8))
    weights = given(learned, "vit.safetensors")
    told = start_from(same, weights, new_decoder=True, option=OPTION)
    assert told[2] == (
        "positions of the encoder are not a sine-cosine table (they were learned, or interpolated before): they are "
        "kept, and stay frozen as all positions here"
    )
    assert torch.equal(same.encoder.get_parameter("pos_embed"), learned["pos_embed"])
    told = start_from(smaller, weights, new_decoder=True, option=OPTION)
    assert told[2].endswith("from 4 x 4 to 2 x 2 patches, bicubic with antialiasing, as timm does it")


def test_the_image_size_that_config_json_states_tells_the_grid(given: Callable[..., Weights]):
    learned = timms(build(1))
    learned["pos_embed"] = torch.randn(1, 17, 24, generator=torch.Generator().manual_seed(0))
    for name, config in {
        "timm": {"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": [8, 32]}},
        "old timm": {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"input_size": [3, 8, 32]}},
        "transformers": {"model_type": "vit", "image_size": [8, 32], "num_attention_heads": 3},
    }.items():
        told = start_from(build(), given(learned, name, config), new_decoder=True, option=OPTION)
        assert any("interpolated from 2 x 8 to 4 x 4 patches" in line for line in told), name


@pytest.mark.parametrize(("part", "name"), [("encoder", "pos_embed"), ("decoder", "decoder_pos_embed")])
def test_positions_that_tell_no_patches_apart_or_have_none_for_the_class_are_refused(
    given: Callable[..., Weights], part: str, name: str
):
    tensors = facebooks(build(1))
    way_out = "; give other weights" + (", or pass --new-decoder" if part == "decoder" else "")
    weights = given({**tensors, name: torch.zeros_like(tensors[name])}, "zero.pth")
    told = refused_start(build(), weights)
    ours = name if part == "decoder" else f"encoder.{name}"
    assert f"{weights.where}: {ours} is the same for all patches, which then cannot be told apart" in told
    assert told.endswith(way_out)
    told = refused_start(build(), given({**tensors, name: tensors[name][:, 1:]}))
    assert f": {ours} has 16 positions, expected one for the class token" in told
    told = refused_start(build(), given({**tensors, name: tensors[name][0]}))
    assert f"{ours} [17, " in told


def test_half_precision_and_other_targets_are_said(given: Callable[..., Weights]):
    config = {
        "model_type": "vit_mae",
        "num_attention_heads": 3,
        "decoder_num_attention_heads": 4,
        "norm_pix_loss": False,
        "layer_norm_eps": 1e-6,
    }
    weights = given({name: tensor.half() for name, tensor in facebooks(build(1)).items()}, "half", config)
    model = build(2)
    assert start_from(model, weights, new_decoder=False, option=OPTION)[1:] == [
        "its numbers were float16, and are float32 now",
        "the decoder was trained with --objective.no-normalize-targets, here it is --objective.normalize-targets: the "
        "loss begins high",
    ]
    assert model.mask_token.dtype == torch.float32
