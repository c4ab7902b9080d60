"""Who is compared in a training step, and how each is set up: the same weights, inputs and optimizer for all."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from pretrain.masked_autoencoder import MaskedAutoencoder


class Contender(NamedTuple):
    """Whose model, and whether torch.compile has it as one graph."""

    name: str
    title: str
    library: Literal["sherd", "transformers"]
    compiled: bool


BASE = "transformers"
CONTENDERS = (
    Contender(BASE, "Transformers", "transformers", compiled=False),
    Contender("sherd", "sherd", "sherd", compiled=False),
    Contender("sherd-compiled", "sherd, compiled", "sherd", compiled=True),
    Contender("transformers-compiled", "Transformers, compiled", "transformers", compiled=True),
)


@dataclass(frozen=True)
class Setting:
    """A model by timm's name, at 224 px, in a precision, on a device ("cpu" or "cuda"); threads are for a CPU."""

    model: str
    precision: Literal["fp32", "bf16"]
    batch: int
    device: str
    threads: int

    @property
    def title(self) -> str:
        """What tables and the progress bar call it."""
        return f"{self.model} {self.precision}"


class Running:
    """A contender that can be run: its loss in fp32 alone, or whole training steps of its `trained` parameters."""

    def __init__(self, model: Any, loss: "Callable[[Any], Tensor]", setting: Setting, *, compiled: bool) -> None:
        import torch

        self._setting = setting
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        rate = 1.5e-4 * setting.batch / 256
        self._optimizer = torch.optim.AdamW(self.trained, lr=rate, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
        self._model = torch.compile(model, fullgraph=True, dynamic=False) if compiled else model
        self._eager = model
        self._loss = loss

    def reference(self) -> float:
        """The loss in fp32, not compiled."""
        import torch

        with torch.no_grad():
            return self._loss(self._eager).item()

    def step(self) -> "Tensor":
        """Forward, backward, update, gradients forgotten; the loss before it, which nobody has waited for."""
        import torch

        with torch.autocast(self._setting.device, torch.bfloat16, enabled=self._setting.precision == "bf16"):
            loss = self._loss(self._model)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def contender_named(name: str) -> Contender:
    """The one of that name. ValueError where there is none."""
    for contender in CONTENDERS:
        if contender.name == name:
            return contender
    raise ValueError(f"--contender {name}: expected one of {' '.join(one.name for one in CONTENDERS)}")


def set_up(name: str, setting: Setting, size: int = 224) -> Running:
    """A contender by name, with the weights and inputs that all have. ValueError for a model that is none."""
    import torch

    contender, model = contender_named(name), autoencoder(setting.model, size)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(setting.batch, *model.image_shape, generator=generator).to(setting.device)
    noise = torch.rand(setting.batch, model.patches, generator=generator).to(setting.device)
    if contender.library == "sherd":
        return Running(
            model.to(setting.device), lambda run: run(images, noise).loss, setting, compiled=contender.compiled
        )
    theirs = transformers_with(model).to(setting.device)
    return Running(theirs, lambda run: run(images, noise=noise).loss, setting, compiled=contender.compiled)


def autoencoder(name: str, size: int) -> "MaskedAutoencoder":
    """Ours, with the published decoder and seeded weights. ValueError if timm has no such model or it has no patch."""
    import torch

    from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig
    from pretrain.encoder import create_encoder
    from pretrain.masked_autoencoder import MaskedAutoencoder

    patch = next((int(part[5:]) for part in name.split("_") if part.startswith("patch") and part[5:].isdigit()), 0)
    if not patch:
        raise ValueError(
            f"--models {name}: expected a timm name that says the patch size, such as vit_base_patch16_224"
        )
    encoder = create_encoder(EncoderConfig(name, (size, size), (patch, patch)))
    model = MaskedAutoencoder(encoder, DecoderConfig(), ObjectiveConfig())
    model.initialize(torch.Generator().manual_seed(0))
    return model


def transformers_with(model: "MaskedAutoencoder") -> Any:
    """ViTMAEForPreTraining with the weights of ours, ready to be trained.

    By `from_pretrained`, from a folder in the layout of version 4: a fresh one has zeros for positions in its decoder.
    """
    from safetensors.torch import save_file
    from transformers import ViTMAEForPreTraining

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "config.json").write_text(json.dumps(_their_config(model)))
        save_file(_their_tensors(model), folder / "model.safetensors", metadata={"format": "pt"})
        loaded: Any = ViTMAEForPreTraining.from_pretrained(folder, attn_implementation="sdpa", output_loading_info=True)
        theirs, info = loaded
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    # Frozen in a fresh model, as in ours; from_pretrained thaws them.
    theirs.vit.embeddings.position_embeddings.requires_grad_(False)
    theirs.decoder.decoder_pos_embed.requires_grad_(False)
    return theirs.train()


def _their_config(model: "MaskedAutoencoder") -> dict[str, Any]:
    from pretrain.config import ObjectiveConfig

    sizes: dict[str, Any] = {}
    blocks: Any
    for prefix, blocks in (("", model.encoder.blocks), ("decoder_", model.decoder_blocks)):
        intermediate, width = blocks[0].mlp.fc1.weight.shape
        sizes |= {f"{prefix}hidden_size": width, f"{prefix}intermediate_size": intermediate}
        sizes |= {f"{prefix}num_hidden_layers": len(blocks), f"{prefix}num_attention_heads": blocks[0].attn.num_heads}
    return {
        "model_type": "vit_mae",
        **sizes,
        "image_size": model.image_shape[1],
        "patch_size": model.patch_size[0],
        "num_channels": model.image_shape[0],
        "layer_norm_eps": 1e-6,
        "mask_ratio": ObjectiveConfig().mask_ratio,
        "norm_pix_loss": model.normalize_targets,
    }


_NAMES = {
    "encoder.cls_token": "vit.embeddings.cls_token",
    "encoder.pos_embed": "vit.embeddings.position_embeddings",
    "encoder.patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "encoder.blocks": "vit.encoder.layer",
    "encoder.norm": "vit.layernorm",
    "decoder_blocks": "decoder.decoder_layers",
}
_LAYERS = {
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attn.proj": ("attention.output.dense",),
    "norm1": ("layernorm_before",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
}


def _their_tensors(model: "MaskedAutoencoder") -> "dict[str, Tensor]":
    """By the names of version 4, each qkv in three."""
    tensors = {}
    for ours, tensor in model.state_dict().items():
        start = next((name for name in _NAMES if ours.startswith(f"{name}.") or ours == name), None)
        if start is None:
            names = [f"decoder.{ours}"]
        elif start.endswith("blocks"):
            index, _, rest = ours.removeprefix(f"{start}.").partition(".")
            layer, _, kind = rest.rpartition(".")
            names = [f"{_NAMES[start]}.{index}.{their}.{kind}" for their in _LAYERS[layer]]
        else:
            names = [_NAMES[start] + ours.removeprefix(start)]
        parts = tensor.chunk(len(names)) if len(names) > 1 else (tensor,)
        tensors |= {name: part.contiguous() for name, part in zip(names, parts, strict=True)}
    return tensors
