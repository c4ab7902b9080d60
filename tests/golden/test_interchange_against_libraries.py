"""Weights as facebook, timm and Transformers write them, read back to the bit; Transformers computes the same loss.

Those of the Hub are fetched by huggingface_hub, from a server that speaks as the Hub does.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save, save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import save_for_hf

from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig
from pretrain.encoder import create_encoder, initialize_encoder
from pretrain.interchange import read_weights, start_from
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.model_folder import save_model
from pretrain.pixels import Normalization

ROOT = Path(__file__).parents[2]
# Rows of ours split into theirs: the names that Transformers 4 writes, spelled out block by block.
BLOCK = [
    ("norm1", ["layernorm_before"]),
    ("attn.qkv", ["attention.attention.query", "attention.attention.key", "attention.attention.value"]),
    ("attn.proj", ["attention.output.dense"]),
    ("norm2", ["layernorm_after"]),
    ("mlp.fc1", ["intermediate.dense"]),
    ("mlp.fc2", ["output.dense"]),
]
CONFIG = {
    "model_type": "vit_mae",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-6,
    "image_size": 16,
    "patch_size": 4,
    "num_channels": 3,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 64,
    "mask_ratio": 0.75,
    "norm_pix_loss": True,
}


def build(seed: int, image_size: tuple[int, int] = (16, 16)) -> MaskedAutoencoder:
    """A small autoencoder whose every weight counts: also biases and norms are random."""
    config = EncoderConfig("vit_tiny_patch16_224", image_size, (4, 4), width=24, depth=2, heads=3)
    model = MaskedAutoencoder(create_encoder(config), DecoderConfig(width=16, depth=2, heads=4), ObjectiveConfig())
    generator = torch.Generator().manual_seed(seed)
    model.initialize(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def batch(model: MaskedAutoencoder) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(3, *model.image_shape, generator=generator)
    return images, torch.rand(3, model.patches, generator=generator)


def facebooks(model: MaskedAutoencoder) -> dict[str, torch.Tensor]:
    return {name.removeprefix("encoder."): tensor for name, tensor in model.state_dict().items()}


def write_version_4(model: MaskedAutoencoder, folder: Path) -> None:
    """What Transformers 4 would have written of this model."""
    state = model.state_dict()
    tensors = {
        "vit.embeddings.cls_token": state.pop("encoder.cls_token"),
        "vit.embeddings.position_embeddings": state.pop("encoder.pos_embed"),
        "decoder.mask_token": state.pop("mask_token"),
        "decoder.decoder_pos_embed": state.pop("decoder_pos_embed"),
    }
    for kind in ("weight", "bias"):
        projection = state.pop(f"encoder.patch_embed.proj.{kind}")
        tensors[f"vit.embeddings.patch_embeddings.projection.{kind}"] = projection
        tensors[f"vit.layernorm.{kind}"] = state.pop(f"encoder.norm.{kind}")
        for name in ("decoder_embed", "decoder_norm", "decoder_pred"):
            tensors[f"decoder.{name}.{kind}"] = state.pop(f"{name}.{kind}")
        for ours, theirs in (("encoder.blocks", "vit.encoder.layer"), ("decoder_blocks", "decoder.decoder_layers")):
            for index in range(2):
                for inner, names in BLOCK:
                    parts = state.pop(f"{ours}.{index}.{inner}.{kind}").chunk(len(names))
                    for name, part in zip(names, parts, strict=True):
                        tensors[f"{theirs}.{index}.{name}.{kind}"] = part.contiguous()
    assert not state
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def assert_same_state(one: torch.nn.Module, other: torch.nn.Module) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize("is_bare", [False, True])
def test_facebooks_file_is_read_back_to_the_bit(tmp_path: Path, is_bare: bool):
    model, other = build(1), build(7)
    torch.save(facebooks(model) if is_bare else {"model": facebooks(model)}, tmp_path / "mae.pth")
    weights = read_weights(str(tmp_path / "mae.pth"), "--init-from")
    assert (weights.layout, weights.has_decoder, weights.left_out) == ("facebook", True, ())
    start_from(other, weights, new_decoder=False, option="--init-from")
    assert_same_state(model, other)


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin", "sherd"])
def test_timms_folder_is_read_back_to_the_bit(tmp_path: Path, kind: str):
    model, other, before = build(1), build(7), build(7)
    folder = tmp_path / "m"
    if kind == "sherd":
        config = EncoderConfig("vit_tiny_patch16_224", (16, 16), (4, 4), width=24, depth=2, heads=3)
        save_model(folder, model.encoder, config, Normalization((0.5,) * 3, (0.5,) * 3))
    else:
        arguments = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
        is_safe = kind == "model.safetensors"
        save_for_hf(model.encoder, str(folder), model_args=arguments, safe_serialization=is_safe)
        assert (folder / kind).is_file()
    weights = read_weights(str(folder), "--init-from")
    assert (weights.layout, weights.has_decoder, weights.stated.heads) == ("timm", False, 3)
    start_from(other, weights, new_decoder=True, option="--init-from")
    assert_same_state(model.encoder, other.encoder)
    decoders = [{n: t for n, t in one.state_dict().items() if not n.startswith("encoder.")} for one in (other, before)]
    assert all(torch.equal(tensor, decoders[1][name]) for name, tensor in decoders[0].items())


@pytest.mark.parametrize("version", ["4", "5", "5 in memory"])
def test_transformers_folder_is_read_back_to_the_bit_and_its_loss_is_ours(tmp_path: Path, version: str):
    transformers = pytest.importorskip("transformers", minversion="5.0")
    model, other = build(1), build(7)
    write_version_4(model, folder := tmp_path / "4")
    theirs, info = transformers.ViTMAEForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    if version != "4":
        folder = tmp_path / "5"
        theirs.save_pretrained(folder, save_original_format=version == "5")
        inside = "decoder.decoder_encoder.layer.0." if version == "5" else "vit.layers.0.attention.q_proj."
        assert any(name.startswith(inside) for name in load_file(folder / "model.safetensors"))
    weights = read_weights(str(folder), "--init-from")
    assert (weights.layout, weights.has_decoder) == ("transformers", True)
    stated = weights.stated
    assert (stated.heads, stated.decoder_heads, stated.image_size) == (3, 4, (16, 16))
    assert (stated.activation, stated.normalize_targets) == ("gelu", True)
    told = start_from(other, weights, new_decoder=False, option="--init-from")
    assert len(told) == 1  # nothing was left out, made up or taken for granted
    assert_same_state(model, other)
    images, noise = batch(other)
    torch.testing.assert_close(other(images, noise).loss, theirs(images, noise=noise).loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["ViTMAEModel", "ViTModel", "ViTForImageClassification"])
def test_an_encoder_of_transformers_computes_the_same_here(tmp_path: Path, kind: str):
    transformers = pytest.importorskip("transformers", minversion="5.0")
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "layer_norm_eps")
    sizes = {name: CONFIG[name] for name in (*names, "image_size", "patch_size")}
    make = transformers.ViTMAEConfig if kind == "ViTMAEModel" else transformers.ViTConfig
    theirs = getattr(transformers, kind)(make(**sizes)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    theirs.save_pretrained(tmp_path)
    model = build(7)
    told = start_from(model, read_weights(str(tmp_path), "--init-from"), new_decoder=True, option="--init-from")
    left_out = {"ViTMAEModel": None, "ViTModel": "pooler.dense.", "ViTForImageClassification": "classifier."}[kind]
    assert (left_out is None) == (not any("left out of it" in line for line in told))
    assert left_out is None or any(f"left out of it: {left_out}" in line for line in told)
    assert any("not a sine-cosine table" in line for line in told)
    images, noise = batch(model)
    inside = theirs.vit if kind == "ViTForImageClassification" else theirs
    if kind == "ViTMAEModel":
        inside.config.mask_ratio = 0.0
        noise = noise.sort(dim=1).values  # nothing hidden, and the patches in their order
        expected = inside(images, noise=noise).last_hidden_state
    else:
        expected = inside(images).last_hidden_state
    torch.testing.assert_close(model.encoder.forward_features(images), expected, rtol=1e-4, atol=1e-4)


def test_positions_for_another_image_size_are_those_of_transformers_and_timm(tmp_path: Path):
    transformers = pytest.importorskip("transformers", minversion="5.0")
    model, larger, again = build(1), build(7, (24, 16)), build(7, (24, 16))
    write_version_4(model, tmp_path / "4")
    weights = read_weights(str(tmp_path / "4"), "--init-from")
    told = start_from(larger, weights, new_decoder=False, option="--init-from")
    theirs = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "4").vit.embeddings
    expected = theirs.interpolate_pos_encoding(torch.empty(1, 1 + 24, 24), 24, 16)
    torch.testing.assert_close(larger.encoder.pos_embed, expected, rtol=0, atol=1e-6)
    assert [line for line in told if "interpolated from" in line] == [
        f"positions of the {part} interpolated from 4 x 4 to 6 x 4 patches, bicubic without antialiasing, as MAE's "
        "released code does it"
        for part in ("encoder", "decoder")
    ]
    save_file(
        {n: t for n, t in facebooks(model).items() if n in model.encoder.state_dict()}, tmp_path / "t.safetensors"
    )
    start_from(again, read_weights(str(tmp_path / "t.safetensors"), "-"), new_decoder=True, option="-")
    assert torch.equal(again.encoder.pos_embed, resample_abs_pos_embed(model.encoder.pos_embed, [6, 4], [4, 4]))


def test_a_classifier_of_timm_gives_its_encoder(tmp_path: Path):
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=5, **sizes).eval()
    initialize_encoder(theirs, torch.Generator().manual_seed(0))
    save_for_hf(theirs, str(tmp_path), model_args=sizes, safe_serialization=True)
    model = build(7)
    told = start_from(model, read_weights(str(tmp_path), "-"), new_decoder=True, option="-")
    assert "left out of it: head.bias, head.weight: the head of a classifier" in told
    images = batch(model)[0]
    assert torch.equal(model.eval().encoder.forward_features(images), theirs.forward_features(images))


def load_stand_in() -> ModuleType:
    path = ROOT / "tests" / "end_to_end" / "hub_stand_in.py"
    spec = importlib.util.spec_from_file_location("golden_hub_stand_in", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


READ_ALL = """
import json, sys
from pretrain.weight_files import read_weight_file
told = {}
for where in sys.argv[1:]:
    try:
        file = read_weight_file(where, "--init-from")
        told[where] = [file.path.name, file.config, {name: tensor.tolist() for name, tensor in file.tensors.items()}]
    except ValueError as error:
        told[where] = str(error)
print(json.dumps(told))
"""


def test_repositories_of_the_hub_are_read_over_http_and_kept(tmp_path: Path):
    stand_in = load_stand_in()
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
    torch.save(tensors, tmp_path / "w.bin")
    config, pickled = b'{"model_type": "vit_mae"}', (tmp_path / "w.bin").read_bytes()
    both = {
        "config.json": config,
        "model.safetensors": save(tensors),
        "pytorch_model.bin": b"not read",
        "README.md": b"",
    }
    repositories = {
        "user/both": stand_in.Repository(both),
        "user/old": stand_in.Repository({"config.json": config, "pytorch_model.bin": pickled}),
        "user/pth": stand_in.Repository(
            {"config.json": config, "preprocessor_config.json": b"{}", "model.pth": pickled}
        ),
        "user/none": stand_in.Repository({"README.md": b"nothing"}),
        "user/gated": stand_in.Repository(both, "gated"),
    }
    hub = stand_in.HubStandIn({("model", name): repository for name, repository in repositories.items()})
    both_at = f"hf://user/both@{repositories['user/both'].commit}"
    wanted = ["hf://user/both", both_at, "hf://user/old", "hf://user/none", "hf://user/gated", "hf://user/absent"]
    wanted += ["hf://user/both@v9", "hf://user/pth"]

    def read(*where: str) -> dict[str, Any]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", **hub.environment}
        command = [sys.executable, "-c", READ_ALL, *where]
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=200, check=True
        )
        return json.loads(done.stdout.splitlines()[-1])

    values = {name: tensor.tolist() for name, tensor in tensors.items()}
    with stand_in.serve(hub):
        told = read(*wanted)
    assert told["hf://user/both"] == told[both_at] == ["model.safetensors", {"model_type": "vit_mae"}, values]
    assert told["hf://user/old"] == ["pytorch_model.bin", {"model_type": "vit_mae"}, values]
    assert not any("user/both" in line and "pytorch_model.bin" in line for line in hub.log)
    assert told["hf://user/pth"] == ["model.pth", {"model_type": "vit_mae"}, values]
    assert any("user/pth" in line and "preprocessor_config.json" in line for line in hub.log)
    assert not any("README.md" in line for line in hub.log)
    assert "--init-from hf://user/none: this repository holds neither model.safetensors nor" in told["hf://user/none"]
    for where in wanted[-4:-1]:
        assert told[where].startswith(f"--init-from {where}: the Hub does not give it: ")
        assert told[where].endswith("private and gated repositories need HF_TOKEN, a mirror HF_ENDPOINT")
    # The server is gone: what was fetched is still there, and nothing else.
    told = read("hf://user/both", "hf://user/old", "hf://user/absent")
    assert told["hf://user/both"][2] == told["hf://user/old"][2] == values
    assert "the Hub does not give it: " in told["hf://user/absent"]


CLASSIFY = """
import sys, torch
from pretrain.backbones import restore
from pretrain.model_source import find_source
source = find_source("hf://user/resnet", "--init")
logits = restore(source)(torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64))
torch.save({"logits": logits, "names": list(source.class_names), "ours": source.is_ours}, sys.argv[1])
"""


def test_a_classifier_of_the_hub_is_what_timm_makes_of_it(tmp_path: Path):
    stand_in = load_stand_in()
    model = timm.create_model("test_resnet", num_classes=3).eval()
    labels = {"label_names": ["a", "b", "c"]}
    save_for_hf(model, str(tmp_path / "stock"), model_config=labels, safe_serialization=True)
    files = {path.name: path.read_bytes() for path in (tmp_path / "stock").iterdir()}
    hub = stand_in.HubStandIn({("model", "user/resnet"): stand_in.Repository(files)})
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CLASSIFY, str(tmp_path / "found.pt")]
    with stand_in.serve(hub):
        environment |= hub.environment
        subprocess.run(command, env=environment, cwd=ROOT, timeout=200, check=True)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert (found["names"], found["ours"]) == (["a", "b", "c"], False)
    with torch.no_grad():
        expected = model(torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64))
    torch.testing.assert_close(found["logits"], expected, atol=1e-5, rtol=0)
