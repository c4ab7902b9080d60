"""Where a model comes from: a run or model folder of sherd, a folder of timm, Transformers or facebook, or weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from launch.file_hash import file_sha256
from launch.redaction import redact
from launch.strict_json import read_json
from pretrain.architectures import build, complete, is_plain, keywords
from pretrain.backbone_config import BackboneConfig, Pool
from pretrain.encoder import create_classifier, create_encoder
from pretrain.interchange import read_weights
from pretrain.model_folder import inside_run, written_by_sherd
from pretrain.pixels import IMAGENET, Normalization
from pretrain.preprocessor_file import PREPROCESSOR, Preparation, read_preprocessor
from pretrain.renaming import read_renamed
from pretrain.stated_config import NORM_EPSILON
from pretrain.stated_model import StatedModel, read_stated, states_model, with_two_heads
from pretrain.weight_files import locate_weights, read_tensors, some, weights_in

_POOLS: dict[str, Pool] = {"avg": "mean", "token": "token"}
_NAMED = {"img_size", "patch_size", "in_chans", "global_pool", "num_classes"}
_SIZES = {"embed_dim": "width", "depth": "depth", "num_heads": "heads"}


_UNKNOWN = Preparation("bicubic", 0.875, "center")


@dataclass(frozen=True)
class ModelSource:
    """A model that exists; `classes` is 0, and `class_names` None, where it has no head.

    `name` is as the user gave it, without credentials; `path` the folder or file; `pool` what its head saw, as far as
    it is known. `is_folder`: timm builds the model from the folder's config.json; `stated`: a folder of Transformers or
    of facebook's layout says all of it. Without either the weights are those of an encoder, and its sizes were given.
    """

    name: str
    path: Path
    backbone: BackboneConfig
    normalization: Normalization
    preparation: Preparation
    classes: int
    class_names: tuple[str, ...] | None
    pool: Pool
    is_ours: bool
    is_folder: bool
    stated: StatedModel | None = None

    @property
    def is_described(self) -> bool:
        """Whether the folder itself says what the model is and how its images are prepared."""
        return self.is_folder or self.stated is not None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is different in a model with these weights that is built as all others here, a sentence each."""
        epsilon = NORM_EPSILON if self.stated is None else self.stated.norm_epsilon
        if epsilon == NORM_EPSILON:
            return ()
        return (
            f"its norms add {epsilon:g} to the variance, here it is {NORM_EPSILON:g}: what the model computes is a "
            "little different",
        )

    @property
    def weights(self) -> Path:
        """The file of weights. Raises ValueError where the folder has none."""
        return weights_in(self.path, self.name) if self.path.is_dir() else self.path

    @property
    def sha256(self) -> str:
        """Of the file of weights, in hex."""
        return file_sha256(self.weights)

    def tensors(self) -> dict[str, Tensor]:
        """The weights by timm's names, on the CPU, floats as float32.

        Raises:
            ValueError: the file is absent, damaged, or holds more than finite numbers.
        """
        if not self.is_folder:
            return self._renamed()
        found = read_tensors(self.weights, self.name)
        floats = {
            name: value.float() if value.is_floating_point() else value
            for name, value in found.items()
            if isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
        }
        other = [str(name) for name in found if name not in floats]
        other += [name for name, value in floats.items() if not torch.isfinite(value).all()]
        if other:
            raise ValueError(
                f"{self.weights}: expected tensors of finite numbers, found others under {some(other)}; get the file "
                "anew"
            )
        return floats

    def build(self, classes: int) -> nn.Module:
        """A model that no folder of timm's describes, on the CPU, with `classes` or without a head; its weights are
        still to be filled. Its norms add to the variance what the weights were trained with.

        Raises:
            ValueError: timm cannot build it.
        """
        assert not self.is_folder
        config = self.backbone
        if not is_plain(config):
            model = build(config.name, keywords(config, self.pool) | {"num_classes": classes}, 0)
        elif self.stated is None or self.pool == "own":
            model = create_encoder(config.plain)
        else:
            model = create_classifier(config.plain, classes=classes, pool=self.pool, drop_path=0.0)
        if self.stated is not None:
            for module in model.modules():
                if isinstance(module, nn.LayerNorm):
                    module.eps = self.stated.norm_epsilon
        return model

    def _renamed(self) -> dict[str, Tensor]:
        _, renamed = read_renamed(str(self.path), self.name)
        tensors = {n: t for n, t in renamed.tensors.items() if not n.startswith(("mask_token", "decoder_"))}
        if self.stated is None:  # an encoder alone: a head is not of its architecture
            return {n: t for n, t in tensors.items() if not n.startswith(("head.", "fc_norm."))}
        unknown = [name for name in renamed.left_out if "pooler." not in name]
        if unknown:
            raise ValueError(f"{self.weights}: {some(unknown)} are of no head that is known; give another model")
        return with_two_heads(tensors)


def find_source(where: str, option: str, *, like: BackboneConfig | None = None) -> ModelSource:
    """The model that a user named: a run folder, whose `model/` or else `encoder/` is meant, a model folder of timm, of
    Transformers (ViT, DeiT, ViT-MAE) or of facebook's layout as sherd writes it, or hf://user/name with one of them.
    Where `like` says of which architecture they are, also weights alone: of a plain vision transformer, without a head.

    Raises:
        ValueError: nothing there, a run that has not finished, or a model of a kind that is not supported; the message
            begins with `option`.
    """
    said = f"{option} {redact(where)}"
    path = Path(where)
    is_bare = path.is_dir() and not (path / "config.json").is_file() and not list(path.glob("*.safetensors"))
    if "://" not in where and (not path.exists() or is_bare):
        found = "a folder without config.json" if path.is_dir() else "no such folder"
        raise ValueError(
            f"{said}: expected a run folder that pretrain/mae.py, pretrain/distill.py or finetune/classify.py has "
            f"finished, a folder with a timm model (config.json, model.safetensors) or hf://user/name, found {found}"
        )
    path = locate_weights(where, option)
    described = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if "recipe" in described:
        path = inside_run(path, said)
        described = read_json(path / "config.json")
    if "architecture" in described and "model_type" not in described:
        return _timm_folder(redact(where), path, described, said)
    if path.is_dir() and states_model(described):
        return _stated_folder(redact(where), path, described, said)
    if like is None:
        raise ValueError(
            f"{said}: expected a folder with a timm model, or one of Transformers (config.json with its architecture "
            "or model_type), found weights alone; convert it first, with finetune/classify.py or timm"
        )
    read_weights(where, option)  # refused now where they are of another layout
    return ModelSource(redact(where), path, complete(like), IMAGENET, _UNKNOWN, 0, None, "own", False, False)


def _stated_folder(name: str, path: Path, described: Mapping[str, Any], said: str) -> ModelSource:
    stated, beside = read_stated(described, path, said), path / PREPROCESSOR
    normalization, preparation = IMAGENET, _UNKNOWN
    if beside.is_file():
        normalization, preparation = read_preprocessor(beside, stated.backbone.size, stated.backbone.channels)
    elif stated.classes or stated.backbone.channels != 3:
        raise ValueError(
            f"{said}: expected {PREPROCESSOR} beside config.json, which says how its images are prepared, found none; "
            "write it there with the save_pretrained of the image processor that it was trained with"
        )
    _ = weights_in(path, said)  # refused now where there are none
    return ModelSource(
        name,
        path,
        complete(stated.backbone),
        normalization,
        preparation,
        classes=stated.classes,
        class_names=stated.class_names,
        pool=stated.pool,
        is_ours=written_by_sherd(described),
        is_folder=False,
        stated=stated,
    )


def _timm_folder(name: str, path: Path, described: Mapping[str, Any], said: str) -> ModelSource:
    try:
        prepared = described.get("pretrained_cfg", described)
        arguments = described.get("model_args") or {}
        channels, *size = prepared["input_size"]
        # Of models with stages these are lists, which are no sizes of ours.
        sizes = {ours: arguments[name] for name, ours in _SIZES.items() if isinstance(arguments.get(name), int)}
        taken = _NAMED | {name for name, ours in _SIZES.items() if ours in sizes}
        others = {option: f"{option}={value!r}" for option, value in arguments.items() if option not in taken}
        norm = others.pop("fc_norm", None)
        backbone = BackboneConfig(
            name=described["architecture"],
            image_size=_pair(arguments.get("img_size", size)),
            patch_size=None if arguments.get("patch_size") is None else _pair(arguments["patch_size"]),
            channels=arguments.get("in_chans", channels),
            arguments=tuple(others.values()),
            **sizes,
        )
        if norm is not None and not is_plain(backbone):  # of a plain one it follows from what is pooled
            backbone = replace(backbone, arguments=(*backbone.arguments, norm))
        normalization = Normalization(tuple(prepared["mean"]), tuple(prepared["std"]))
        preparation = Preparation(
            prepared.get("interpolation", "bicubic"),
            prepared.get("crop_pct") or 0.875,
            prepared.get("crop_mode") or "center",
        )
        classes = described.get("num_classes", prepared.get("num_classes"))
        pool = _POOLS.get(str(arguments.get("global_pool", described.get("global_pool"))), "own")
        return ModelSource(
            name,
            path,
            complete(backbone),
            normalization,
            preparation,
            classes=classes,
            class_names=_names(described.get("label_names", prepared.get("label_names")), classes),
            pool=pool,
            is_ours=written_by_sherd(described),
            is_folder=True,
        )
    except KeyError as error:
        raise ValueError(
            f"{said}: {path / 'config.json'} has no {error}, which timm writes into every model folder; write it again "
            "with timm.models.save_for_hf, or give a folder that sherd has written"
        ) from error


def _names(found: Any, classes: int) -> tuple[str, ...] | None:
    """Names of all classes in order, from timm's list or its numbered dict; None where some lack one."""
    if isinstance(found, Mapping):
        found = [found.get(str(number)) for number in range(classes)]
    return tuple(found) if found and None not in found and len(found) == classes else None


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
