"""What a stock library computes from a published model: a program that needs nothing of sherd, called by `main`.

Publishing sends this text to another process. The two exchange files by a folder: given.safetensors with prepared
`images` (n, c, h, w) and, where patches are hidden, `noise` (n, patches); stored/ with the same images as files, if
these are to be prepared too. Left there are outputs.safetensors, `given.*` of those prepared and `prepared.*` of those
that the library prepared by itself, and told.json.
"""

import json
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import PIL
import safetensors
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

AT_ONCE = 16  # as on the other side: the size of a batch may decide in which order a library sums

# facebook's names of a masked autoencoder by those that Transformers 4 and 5 read: written anew here, to be a check of
# the tables that publishing itself has.
_AS_TRANSFORMERS = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "mask_token": "decoder.mask_token",
    **{f"decoder_{name}": f"decoder.decoder_{name}" for name in ("pos_embed", "embed", "norm", "pred")},
}
_BLOCK_AS_TRANSFORMERS = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
# The classes of facebook's repositories, and a model of timm's that differs from them in nothing but its sizes.
_AT_TIMM = {
    "MaskedAutoencoderViT": "vit_base_patch16_224",
    "VisionTransformer": "vit_base_patch16_224",
    "DistilledVisionTransformer": "deit_base_distilled_patch16_224",
    "vit_models": "deit3_base_patch16_224",
}


class Loaded(NamedTuple):
    """A model as its library built it. `compute` gives outputs by name for prepared images and noise; `prepare` is the
    library's own way from an image to a model's input (c, h, w)."""

    compute: Callable[..., dict[str, torch.Tensor]]
    prepare: Callable[[Image.Image], torch.Tensor] | None
    names: list[str] | None
    libraries: tuple[ModuleType, ...]


def load_timm(folder: str) -> Loaded:
    """timm.create_model by the folder's config.json."""
    import timm
    import torchvision
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform: Any = create_transform(**resolve_model_data_config(model), is_training=False)
    return Loaded(_timms(model), transform, model.pretrained_cfg.get("label_names"), (timm, torchvision))


def load_transformers(folder: str) -> Loaded:
    """The class that config.json names; what it could not place, or had to make up, is an error."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    described = json.loads(Path(folder, "config.json").read_text())
    (architecture,) = described["architectures"]
    arguments = {"add_pooling_layer": False} if architecture in ("ViTModel", "DeiTModel") else {}
    kind = getattr(transformers, architecture)
    model, info = kind.from_pretrained(folder, output_loading_info=True, **arguments)
    wrong = {problem: sorted(map(str, names)) for problem, names in info.items() if names}
    if wrong:
        raise ValueError(f"{architecture} did not load it as it is: {wrong}")
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    is_classifier = architecture.endswith(("Classification", "Teacher"))
    return Loaded(
        _transformers(model.eval()),
        lambda image: processor(images=[image], return_tensors="pt")["pixel_values"][0],
        names if is_classifier else None,
        (transformers,),
    )


def load_facebook(folder: str) -> Loaded:
    """timm's loader, which reads such files; of one with a decoder Transformers, under its own names."""
    described = json.loads(Path(folder, "config.json").read_text())
    tensors = torch.load(Path(folder, "model.pth"), map_location="cpu", weights_only=True)["model"]
    if "mask_token" in tensors:
        return _load_autoencoder({**described["arguments"], "mask_ratio": described["mask_ratio"]}, tensors)
    import timm
    from timm.models import load_checkpoint
    from timm.models.vision_transformer import checkpoint_filter_fn

    arguments = dict(described["arguments"])
    if arguments.pop("global_pool", False):
        arguments |= {"global_pool": "avg", "fc_norm": True}
    model = timm.create_model(_AT_TIMM[described["model"]], **arguments)
    rename = partial(checkpoint_filter_fn, adapt_layer_scale=True)  # as timm does for DeiT III
    load_checkpoint(model, str(Path(folder, "model.pth")), strict=True, filter_fn=rename)
    return Loaded(_timms(model.eval()), None, described.get("class_names"), (timm,))


def _load_autoencoder(arguments: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Loaded:
    import tempfile

    import transformers

    transformers.utils.logging.set_verbosity_error()
    config = transformers.ViTMAEConfig(
        image_size=arguments["img_size"],
        patch_size=arguments["patch_size"],
        num_channels=arguments["in_chans"],
        hidden_size=arguments["embed_dim"],
        num_hidden_layers=arguments["depth"],
        num_attention_heads=arguments["num_heads"],
        intermediate_size=int(arguments["embed_dim"] * arguments["mlp_ratio"]),
        decoder_hidden_size=arguments["decoder_embed_dim"],
        decoder_num_hidden_layers=arguments["decoder_depth"],
        decoder_num_attention_heads=arguments["decoder_num_heads"],
        decoder_intermediate_size=int(arguments["decoder_embed_dim"] * arguments["mlp_ratio"]),
        norm_pix_loss=arguments["norm_pix_loss"],
        mask_ratio=arguments["mask_ratio"],
        layer_norm_eps=1e-6,
        architectures=["ViTMAEForPreTraining"],
    )
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        renamed |= _as_transformers(name, tensor)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        save_file(renamed, Path(folder, "model.safetensors"), metadata={"format": "pt"})
        kind: Any = transformers.ViTMAEForPreTraining
        model, info = kind.from_pretrained(folder, output_loading_info=True)
    wrong = {problem: sorted(map(str, names)) for problem, names in info.items() if names}
    if wrong:
        raise ValueError(f"ViTMAEForPreTraining did not load it as it is: {wrong}")
    return Loaded(_transformers(model.eval()), None, None, (transformers,))


def _as_transformers(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    module, dot, kind = name.rpartition(".")
    if name in _AS_TRANSFORMERS:
        return {_AS_TRANSFORMERS[name]: tensor}
    if module in _AS_TRANSFORMERS:
        return {f"{_AS_TRANSFORMERS[module]}{dot}{kind}": tensor}
    part, number, *inner = module.split(".")
    prefix = {"blocks": "vit.encoder.layer", "decoder_blocks": "decoder.decoder_layers"}[part] + f".{number}"
    if inner == ["attn", "qkv"]:
        thirds = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
        return {f"{prefix}.attention.attention.{which}.{kind}": third.contiguous() for which, third in thirds}
    return {f"{prefix}.{_BLOCK_AS_TRANSFORMERS['.'.join(inner)]}.{kind}": tensor}


def _timms(model: Any) -> Callable[..., dict[str, torch.Tensor]]:
    if model.num_classes:
        return lambda images: {"logits": model(images)}
    return lambda images: {"tokens": model.forward_features(images)}


def _transformers(model: Any) -> Callable[..., dict[str, torch.Tensor]]:
    def compute(images: torch.Tensor, noise: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        found = model(images) if noise is None else model(images, noise=noise)
        if noise is not None:
            return {"prediction": found.logits, "mask": found.mask}
        return {"tokens": found.last_hidden_state} if "last_hidden_state" in found else {"logits": found.logits}

    return compute


def main(layout: str, folder: str, exchange: Path) -> None:
    """Compute what is asked for, by the library of a layout (timm, transformers or facebook), and leave it there."""
    loaded = {"timm": load_timm, "transformers": load_transformers, "facebook": load_facebook}[layout](folder)
    given = load_file(exchange / "given.safetensors")
    inputs = {"given": given}
    files = sorted((exchange / "stored").iterdir()) if (exchange / "stored").is_dir() else []
    if files and loaded.prepare is not None:
        images = torch.stack([loaded.prepare(Image.open(file).convert("RGB")) for file in files])
        inputs["prepared"] = {**given, "images": images}
    outputs: dict[str, list[torch.Tensor]] = {}
    with torch.inference_mode():
        for kind, columns in inputs.items():
            ordered = [columns[name].split(AT_ONCE) for name in ("images", "noise") if name in columns]
            for few in zip(*ordered, strict=True):
                for name, values in loaded.compute(*few).items():
                    outputs.setdefault(f"{kind}.{name}", []).append(values)
    save_file({name: torch.cat(parts) for name, parts in outputs.items()}, exchange / "outputs.safetensors")
    libraries = [torch, safetensors, PIL, *loaded.libraries]
    versions = {"python": platform.python_version(), **{each.__name__: each.__version__ for each in libraries}}
    (exchange / "told.json").write_text(json.dumps({"label_names": loaded.names, "versions": versions}))
