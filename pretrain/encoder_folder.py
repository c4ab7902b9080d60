"""The encoder as timm loads it: `timm.create_model("local-dir:RUN/encoder", pretrained=True)`."""

import shutil
from pathlib import Path
from typing import Any

from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer

from launch.atomic import Guard, atomic_folder
from pretrain.config import EncoderConfig
from pretrain.pixels import Normalization


def save_encoder(
    folder: Path,
    encoder: VisionTransformer,
    config: EncoderConfig,
    normalization: Normalization,
    guard: Guard | None = None,
) -> None:
    """Write model.safetensors and config.json, with what rebuilds the model and prepares its images.

    Raises:
        OSError: a full disk; an earlier encoder there is then gone, for the checkpoint still holds its weights.
    """
    arguments = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "in_chans": config.channels,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "fc_norm": False,
    }
    preprocessing = {
        "input_size": (config.channels, *config.image_size),
        "mean": normalization.mean,
        "std": normalization.std,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
    }
    described: dict[str, Any] = vars(encoder)["pretrained_cfg"]
    # Without what timm knows of weights that are not these: their tag, licence, origin.
    own = {name: described[name] for name in ("architecture", "first_conv", "classifier", "fixed_input_size")}
    vars(encoder)["pretrained_cfg"] = {**own, "num_classes": 0, **preprocessing}
    if folder.exists():
        if guard is not None:
            guard()  # before the removal too: it may be another world's
        shutil.rmtree(folder)
    with atomic_folder(folder, guard) as partial:
        given = {name: value for name, value in arguments.items() if value is not None}
        save_for_hf(encoder, str(partial), model_args=given, safe_serialization=True)
