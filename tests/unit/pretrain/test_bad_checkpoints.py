"""Weights that are not what they should be: each is refused by its file and its names, and runs no code."""

import json
import os
import shlex
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save, save_file
from timm.models import save_for_hf
from torch import Tensor

from pretrain.backbones import load_other, load_plain, restore
from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig
from pretrain.encoder import create_encoder
from pretrain.facebook_folder import facebook_config
from pretrain.interchange import read_weights, start_from
from pretrain.layout_writing import shared_tensors, to_facebook, to_transformers
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.model_source import ModelSource, find_source
from pretrain.transformers_folder import transformers_config

Tensors = dict[str, Tensor]
SIZES = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
PLAIN = EncoderConfig("vit_tiny_patch16_224", (16, 16), (4, 4), width=24, depth=2, heads=3)
PREPARED = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
# The name that is spoilt, as each layout has it.
VICTIM = {
    "timm": "blocks.1.mlp.fc1.bias",
    "facebook": "blocks.1.mlp.fc1.bias",
    "transformers": "vit.encoder.layer.1.intermediate.dense.bias",
}


class RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {shlex.quote(str(self.path))}",)


@cache
def classifier() -> Any:
    return timm.create_model("vit_tiny_patch16_224", num_classes=3, **SIZES)


@cache
def wider(config: EncoderConfig) -> Any:
    sizes = SIZES | {"img_size": config.image_size, "patch_size": config.patch_size}
    return timm.create_model("vit_tiny_patch16_224", num_classes=3, **sizes)


@cache
def autoencoder() -> MaskedAutoencoder:
    model = MaskedAutoencoder(create_encoder(PLAIN), DecoderConfig(16, 1, 4), ObjectiveConfig())
    model.initialize(torch.Generator().manual_seed(0))
    return model


def folder(path: Path, layout: str) -> tuple[Path, Tensors]:
    """A whole model in a layout, and the tensors that its file has."""
    path.mkdir()
    if layout == "timm":
        save_for_hf(classifier(), str(path), model_args=SIZES, safe_serialization=True)
        return path, dict(classifier().state_dict())
    writes = layout == "facebook"
    config = facebook_config(classifier()) if writes else transformers_config(classifier())
    (path / "config.json").write_text(json.dumps(config))
    (path / "preprocessor_config.json").write_text(json.dumps(PREPARED))
    shared = shared_tensors(classifier())
    return path, to_facebook(shared) if writes else to_transformers(shared, "classifier")


def renamed(tensors: Tensors, name: str) -> Tensors:
    return {f"{name}s" if key == name else key: tensor for key, tensor in tensors.items()}


def missing(tensors: Tensors, name: str) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if key != name}


SPOILT: dict[str, Callable[[Tensors, str], Tensors]] = {
    "renamed": renamed,
    "missing": missing,
    "extra": lambda tensors, name: {**tensors, name.replace(".1.", ".7."): torch.ones(96)},
    "foreign": lambda tensors, _: {**tensors, "momentum": torch.ones(2)},
    "of another shape": lambda tensors, name: {**tensors, name: torch.ones(95)},
    "a scalar": lambda tensors, name: {**tensors, name: torch.ones(())},
    "NaN": lambda tensors, name: {**tensors, name: torch.full((96,), float("nan"))},
    "infinite": lambda tensors, name: {**tensors, name: torch.full((96,), float("-inf"))},
    "integers": lambda tensors, name: {**tensors, name: torch.ones(96, dtype=torch.int64)},
    "quantised": lambda tensors, name: {**tensors, name: torch.ones(96, dtype=torch.int8)},
}


def told_names(spoilt: str, name: str) -> tuple[str, ...]:
    """Of which names, as the shared ones or as the file's, a refusal must tell one."""
    shared = VICTIM["timm"]
    if spoilt == "renamed":
        return f"{name}s", shared
    if spoilt == "extra":
        return name.replace(".1.", ".7."), shared.replace(".1.", ".7.")
    return ("momentum",) if spoilt == "foreign" else (name, shared)


def refusal(act: Callable[[], object], path: Path) -> str:
    with pytest.raises(ValueError, match=str(path)) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def whole(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[ModelSource, Tensors]:
    """A whole model in a layout, found while it was sound, and the tensors of its file. It is built once for all."""
    path, tensors = folder(tmp_path / "m", request.param)
    write(path, tensors, request.param)
    monkeypatch.setattr(ModelSource, "build", lambda _, classes: deepcopy(classifier()))
    return find_source(str(path), "--model"), tensors


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.parametrize(("whole", "layout"), [(layout, layout) for layout in VICTIM], indirect=["whole"])
def test_a_whole_model_with_spoilt_tensors_is_refused_by_their_names(
    whole: tuple[ModelSource, Tensors], layout: str, spoilt: str
):
    source, tensors = whole
    restore(source)
    write(source.path, SPOILT[spoilt](tensors, VICTIM[layout]), layout)
    names = told_names(spoilt, VICTIM[layout])
    told = refusal(lambda: restore(source), source.path)
    assert any(name in told for name in names)
    # Also where training starts from it.
    model, own = deepcopy(classifier()), {name: tensor.clone() for name, tensor in classifier().state_dict().items()}
    told = refusal(lambda: load_plain(model, source, PLAIN, "facebook", keeps_head=True), source.path)
    assert any(name in told for name in names)
    told = refusal(lambda: load_other(model, source, keeps_head=True), source.path)
    assert any(name in told for name in names)
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.parametrize("layout", ["facebook", "transformers"])
def test_an_autoencoder_with_spoilt_tensors_is_refused_by_their_names(tmp_path: Path, layout: str, spoilt: str):
    shared = shared_tensors(autoencoder())
    tensors = to_facebook(shared) if layout == "facebook" else to_transformers(shared, "autoencoder")
    (tmp_path / "config.json").write_text("{}")
    write(tmp_path, SPOILT[spoilt](tensors, VICTIM[layout]), layout)

    def start() -> None:
        start_from(autoencoder(), read_weights(str(tmp_path), "--init-from"), new_decoder=False, option="--init-from")

    assert any(name in refusal(start, tmp_path) for name in told_names(spoilt, VICTIM[layout]))


@pytest.mark.parametrize(("whole", "layout"), [(layout, layout) for layout in VICTIM], indirect=["whole"])
@pytest.mark.parametrize(
    ("name", "shape"), [("pos_embed", (7,)), ("pos_embed", (1, 9, 24)), ("patch_embed.proj.weight", (7,))]
)
def test_what_may_be_resized_is_refused_in_a_shape_that_none_has(
    whole: tuple[ModelSource, Tensors], layout: str, name: str, shape: tuple[int, ...]
):
    source, tensors = whole
    theirs = {
        "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj.weight": "vit.embeddings.patch_embeddings.projection.weight",
    }
    key = theirs[name] if layout == "transformers" else name
    write(source.path, {**tensors, key: torch.ones(shape)}, layout)
    assert name in refusal(lambda: restore(source), source.path)
    larger = replace(PLAIN, image_size=(24, 24), patch_size=(6, 6) if "patch" in name else (4, 4))
    model = wider(larger)
    assert name in refusal(lambda: load_plain(model, source, larger, "facebook", keeps_head=True), source.path)
    assert name in refusal(lambda: load_other(model, source, keeps_head=True), source.path)


def write(path: Path, tensors: Tensors, layout: str) -> None:
    if layout == "facebook":
        torch.save({"model": tensors}, path / "model.pth")
    else:
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("reads", ["read_weights", "find_source"])
@pytest.mark.parametrize("name", ["model.pth", "pytorch_model.bin"])
def test_a_pickle_that_runs_code_does_not_run_it(tmp_path: Path, name: str, reads: str):
    path, tensors = folder(tmp_path / "m", "transformers")
    mark = tmp_path / "ran"
    torch.save({"model": {**tensors, "more": RunsCode(mark)}}, path / name)
    told = refusal(lambda: read(path, reads), path)
    assert f"{name} pickles posix.system beside its tensors, and is not read, for that could run any code" in told
    assert not mark.exists()
    torch.load(path / name, weights_only=False)
    assert mark.exists()  # it would have been seen


@pytest.mark.parametrize("reads", ["read_weights", "find_source"])
@pytest.mark.parametrize("layout", VICTIM)
def test_a_truncated_file_is_refused(tmp_path: Path, layout: str, reads: str):
    path, tensors = folder(tmp_path / "m", layout)
    write(path, tensors, layout)
    (file,) = [each for each in path.iterdir() if each.name.startswith("model.")]
    for share in (0.0, 0.001, 0.5, 0.999):
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * share)])
        assert file.name in refusal(lambda: read(path, reads), path)
        file.write_bytes(content)
    assert read(path, reads) is not None


def lying(content: bytes, **changes: Any) -> bytes:
    """A safetensors file whose header says something else of its first tensor."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    first = next(name for name in header if name != "__metadata__")
    header[first] |= changes
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


@pytest.mark.parametrize(
    "changes",
    [
        {"data_offsets": [0, 1 << 40]},
        {"data_offsets": [8, 4]},
        {"shape": [1 << 40, 1 << 40]},
        {"shape": [1]},
        {"shape": [-1]},
        {"dtype": "F128"},
        {"dtype": "I4"},
        None,
    ],
    ids=str,
)
@pytest.mark.parametrize("reads", ["read_weights", "find_source"])
def test_a_header_that_lies_is_refused(tmp_path: Path, changes: dict[str, Any] | None, reads: str):
    path, tensors = folder(tmp_path / "m", "transformers")
    content = save(tensors)
    spoilt = (1 << 62).to_bytes(8, "little") + content[8:] if changes is None else lying(content, **changes)
    (path / "model.safetensors").write_bytes(spoilt)
    assert "model.safetensors is not a readable safetensors file" in refusal(lambda: read(path, reads), path)


def read(path: Path, reads: str) -> object:
    return read_weights(str(path), "-") if reads == "read_weights" else find_source(str(path), "-").tensors()


def test_what_is_no_plain_tensor_is_refused(tmp_path: Path):
    path, tensors = folder(tmp_path / "m", "timm")
    (path / "model.safetensors").unlink()
    torch.save({**tensors, "step": 3, 7: torch.ones(1)}, path / "pytorch_model.bin")
    told = refusal(lambda: find_source(str(path), "--model").tensors(), path)
    assert "expected tensors of finite numbers, found others under step, 7; get the file anew" in told
