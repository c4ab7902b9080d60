"""The files of a model in each format: weights, what rebuilds the model, and how images are prepared for it."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from finetune.finished_run import FinishedRun
from finetune.publish_config import Format
from finetune.published_model import PublishedModel
from pretrain.facebook_folder import facebook_config
from pretrain.interchange import read_weights
from pretrain.layout_writing import kind_of, shared_tensors, to_facebook, to_transformers
from pretrain.mae_config import MaeConfig
from pretrain.model_folder import WEIGHTS
from pretrain.model_source import find_source
from pretrain.supervised_config import SupervisedConfig
from pretrain.transformers_folder import transformers_config

_CONFIG, _PREPROCESSOR, _PICKLED = "config.json", "preprocessor_config.json", "model.pth"
_BICUBIC = 3  # of Pillow, and so of Transformers

Description = dict[str, dict[str, Any]]
"""JSON files by name."""


def describe(layout: Format, run: FinishedRun, model: PublishedModel) -> Description:
    """The JSON files of a format; none for timm's, whose training wrote its own.

    Raises:
        ValueError: the format cannot express the model; names one that can.
    """
    if layout == "timm":
        return {}
    _check_prepared(layout, run)
    mask_ratio = None
    if model.kind == "autoencoder":
        assert isinstance(run.config, MaeConfig)
        mask_ratio = run.config.objective.mask_ratio
    if layout == "transformers":
        has_several = isinstance(run.config, SupervisedConfig) and run.config.label_field is not None
        config = transformers_config(
            model.model, class_names=run.class_names, several_labels=has_several, mask_ratio=mask_ratio
        )
    else:
        config = facebook_config(model.model, class_names=run.class_names)
        config |= {} if mask_ratio is None else {"mask_ratio": mask_ratio}
    return {_CONFIG: config, _PREPROCESSOR: _preprocessor(run)}


def write_model(
    layout: Format, run: FinishedRun, model: PublishedModel, description: Description, folder: Path
) -> None:
    """Write weights and description into an empty folder, and read the weights back.

    Raises:
        ValueError: what was written, or what training exported, is not the run's checkpoint bit for bit.
    """
    for name, content in description.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if layout == "timm":
        for name in (WEIGHTS, _CONFIG):
            shutil.copyfile(run.exported.path / name, folder / name)
    elif layout == "transformers":
        tensors = to_transformers(shared_tensors(model.model), kind_of(model.model))
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    else:
        torch.save({"model": to_facebook(shared_tensors(model.model))}, folder / _PICKLED)
    check_weights(folder, model)


def check_weights(folder: Path, model: PublishedModel) -> None:
    """Raise ValueError unless the folder's weights are the model's bit for bit.

    A new head's are so small that a change elsewhere may stay below what outputs are compared by.
    """
    if model.kind == "autoencoder":
        found = {name.removeprefix("encoder."): t for name, t in read_weights(str(folder), "--out").tensors.items()}
    else:
        found = find_source(str(folder), "--out").tensors()
    own = shared_tensors(model.model)
    changed = [name for name in sorted(own.keys() | found.keys()) if not _is_same(own.get(name), found.get(name))]
    if changed:
        raise ValueError(
            f"the exported model is not the run's: {', '.join(changed[:3])} differ from the newest checkpoint; give "
            "the command that began the run again: it writes the model anew from its checkpoint"
        )


def _is_same(own: torch.Tensor | None, found: torch.Tensor | None) -> bool:
    return own is not None and found is not None and torch.equal(own, found.to(own.dtype))


def _check_prepared(layout: Format, run: FinishedRun) -> None:
    split, (height, width) = run.manifest.split(run.held_out.split), run.view.size
    if (split.channels, split.dtype) != (3, "uint8") or height != width:
        raise ValueError(
            f"--format {layout}: images are prepared there as squares of RGB pictures, and the model sees "
            f"{split.channels} channels of {split.dtype}, {height} x {width} pixels; publish it with --format timm"
        )


def _preprocessor(run: FinishedRun) -> dict[str, Any]:
    """As Transformers' BitImageProcessor reads it: the shorter side to a size, then the centre."""
    side, _ = run.view.size
    normalization = run.exported.normalization
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": math.floor(side / run.view.fraction)},
        "resample": _BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(normalization.mean),
        "image_std": list(normalization.std),
    }
