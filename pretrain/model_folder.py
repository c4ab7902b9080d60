"""A model as timm loads it, `timm.create_model("local-dir:FOLDER", pretrained=True)`: written, found and read again."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from launch.atomic import Guard, atomic_folder
from launch.strict_json import read_json
from pretrain.config import EncoderConfig
from pretrain.pixels import Normalization

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class ModelFolder:
    """What the config.json of a model folder says; `classes` is 0, and `class_names` None, where there is no head.

    `name` is the folder as the user gave it, for messages.
    """

    name: str
    path: Path
    encoder: EncoderConfig
    normalization: Normalization
    classes: int
    class_names: tuple[str, ...] | None

    def tensors(self) -> dict[str, Tensor]:
        """The weights by timm's names. Raises ValueError where the file is absent or damaged."""
        try:
            return load_file(self.path / WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{self.path / WEIGHTS}: not a readable safetensors file ({error})") from error


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
    """Write model.safetensors and config.json, with what rebuilds the model and prepares its images.

    Raises:
        OSError: a full disk; an earlier model there is then gone, for the checkpoint still holds its weights.
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
    preprocessing = {
        "input_size": (config.channels, *config.image_size),
        "mean": normalization.mean,
        "std": normalization.std,
        "interpolation": "bicubic",
        "crop_pct": crop_fraction,
    }
    described: dict[str, Any] = vars(model)["pretrained_cfg"]
    # Without what timm knows of weights that are not these: their tag, licence, origin.
    own = {name: described[name] for name in ("architecture", "first_conv", "classifier", "fixed_input_size")}
    vars(model)["pretrained_cfg"] = {**own, "num_classes": model.num_classes, **preprocessing}
    if folder.exists():
        if guard is not None:
            guard()  # before the removal too: it may be another world's
        shutil.rmtree(folder)
    with atomic_folder(folder, guard) as partial:
        save_for_hf(
            model,
            str(partial),
            model_config={} if class_names is None else {"label_names": list(class_names)},
            model_args={name: value for name, value in arguments.items() if value is not None},
            safe_serialization=True,
        )
        if config.channels != 3:
            # timm 1.0.22 takes a first layer that it is told of for one of RGB and, in a model of more channels, starts
            # it anew in silence; newer ones need not be told.
            written = read_json(partial / "config.json")
            written["pretrained_cfg"]["first_conv"] = None
            (partial / "config.json").write_text(json.dumps(written, indent=2) + "\n")


def find_model(where: str, option: str) -> ModelFolder:
    """The model that a user named: a model folder, or a run folder, whose `model/` or else `encoder/` is meant.

    Raises:
        ValueError: nothing there, a run that has not finished, or a model of a kind that is not supported; the message
            begins with `option`.
    """
    path = Path(where)
    if not (path / "config.json").is_file():
        found = "a folder without config.json" if path.is_dir() else "no such folder"
        raise ValueError(
            f"{option} {where}: expected a run folder that pretrain/mae.py has finished or a folder with a timm model "
            f"(config.json, {WEIGHTS}), found {found}"
        )
    if "recipe" in read_json(path / "config.json"):
        inside = next((path / name for name in ("model", "encoder") if (path / name / WEIGHTS).is_file()), None)
        if inside is None:
            raise ValueError(
                f"{option} {where}: this run has no finished encoder ({_ending(path)}); end it first: give the command "
                "that began it again, it goes on from its newest checkpoint"
            )
        path = inside
    return _read(where, path, option)


def _ending(run: Path) -> str:
    """How a run has ended, for a message."""
    if not (run / "exit.json").is_file():
        return "it is still running, or was killed"
    ended = read_json(run / "exit.json")
    return f"exit.json: {ended['status']}" + (f" at step {ended['step']:,}" if "step" in ended else "")


def _read(name: str, path: Path, option: str) -> ModelFolder:
    described = read_json(path / "config.json")
    try:
        arguments, prepared = described.get("model_args", {}), described["pretrained_cfg"]
        channels, *size = prepared["input_size"]
        encoder = EncoderConfig(
            name=described["architecture"],
            image_size=_pair(arguments.get("img_size", size)),
            patch_size=_pair(arguments["patch_size"]),
            channels=channels,
            width=arguments.get("embed_dim"),
            depth=arguments.get("depth"),
            heads=arguments.get("num_heads"),
        )
        normalization = Normalization(tuple(prepared["mean"]), tuple(prepared["std"]))
        names = described.get("label_names")
        return ModelFolder(name, path, encoder, normalization, described["num_classes"], names and tuple(names))
    except KeyError as error:
        raise ValueError(
            f"{option} {name}: {path / 'config.json'} has no {error}, which sherd writes into every model folder; "
            "give a folder that pretrain/mae.py or finetune/classify.py has written"
        ) from error


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
