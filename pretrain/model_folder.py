"""A model as timm loads it, `timm.create_model("local-dir:FOLDER", pretrained=True)`: written, and found in a run."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from launch.atomic import Guard, atomic_folder
from launch.strict_json import read_json
from pretrain.config import EncoderConfig
from pretrain.pixels import Normalization

WEIGHTS = "model.safetensors"
_MARK = "sherd"


@dataclass(frozen=True)
class Prepared:
    """How images are prepared for a model: (channels, height, width), their normalisation, the centre crop's share."""

    input_size: tuple[int, int, int]
    normalization: Normalization
    crop_fraction: float


def save_model(
    folder: Path,
    model: VisionTransformer,
    config: EncoderConfig,
    normalization: Normalization,
    *,
    class_names: tuple[str, ...] | None = None,
    crop_fraction: float = 1.0,
    guard: Guard | None = None,
) -> None:
    """Write a plain vision transformer, as `save_folder` does.

    Raises:
        OSError: as `save_folder`.
    """
    arguments = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "in_chans": config.channels,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "fc_norm": model.global_pool == "avg",
        "global_pool": model.global_pool,
    }
    named = {name: value for name, value in arguments.items() if value is not None}
    prepared = Prepared((config.channels, *config.image_size), normalization, crop_fraction)
    save_folder(folder, model, named, prepared, class_names=class_names, guard=guard)


def save_folder(
    folder: Path,
    model: nn.Module,
    arguments: Mapping[str, Any],
    prepared: Prepared,
    *,
    class_names: tuple[str, ...] | None,
    guard: Guard | None,
) -> None:
    """Write model.safetensors and config.json of any timm model, with what rebuilds it and prepares its images.

    `arguments` are those that timm builds it with, but for the number of classes.

    Raises:
        OSError: a full disk; an earlier model there is then gone, for the checkpoint still holds its weights.
    """
    channels = prepared.input_size[0]
    preprocessing = {
        "input_size": prepared.input_size,
        "mean": prepared.normalization.mean,
        "std": prepared.normalization.std,
        "interpolation": "bicubic",
        "crop_pct": prepared.crop_fraction,
        "crop_mode": "center",
    }
    described: dict[str, Any] = vars(model)["pretrained_cfg"]
    # Without what timm knows of weights that are not these: their tag, licence, origin.
    own = {name: described.get(name) for name in ("architecture", "first_conv", "classifier", "fixed_input_size")}
    classes = getattr(model, "num_classes", 0)
    vars(model)["pretrained_cfg"] = {**own, "num_classes": classes, **preprocessing}
    if folder.exists():
        if guard is not None:
            guard()  # before the removal too: it may be another world's
        shutil.rmtree(folder)
    with atomic_folder(folder, guard) as partial:
        labels = {} if class_names is None else {"label_names": list(class_names)}
        save_for_hf(
            model,
            str(partial),
            model_config={**labels, _MARK: version("sherd")},
            model_args=dict(arguments),
            safe_serialization=True,
        )
        if channels != 3:
            # timm 1.0.22 takes a first layer that it is told of for one of RGB and, in a model of more channels, starts
            # it anew in silence; newer ones need not be told.
            written = read_json(partial / "config.json")
            written["pretrained_cfg"]["first_conv"] = None
            (partial / "config.json").write_text(json.dumps(written, indent=2) + "\n")


def written_by_sherd(described: Mapping[str, Any]) -> bool:
    """Whether a model folder's config.json is sherd's, which says how its images were prepared for evaluation."""
    return _MARK in described


def inside_run(run: Path, said: str) -> Path:
    """The model folder in a run folder: `model/`, or else `encoder/`.

    Raises:
        ValueError: the run has not finished; the message begins with `said`.
    """
    inside = next((run / name for name in ("model", "encoder") if (run / name / WEIGHTS).is_file()), None)
    if inside is None:
        raise ValueError(
            f"{said}: this run has no finished encoder ({_ending(run)}); end it first: give the command that began it "
            "again, it goes on from its newest checkpoint"
        )
    return inside


def _ending(run: Path) -> str:
    """How a run has ended, for a message."""
    if not (run / "exit.json").is_file():
        return "it is still running, or was killed"
    ended = read_json(run / "exit.json")
    return f"exit.json: {ended['status']}" + (f" at step {ended['step']:,}" if "step" in ended else "")
