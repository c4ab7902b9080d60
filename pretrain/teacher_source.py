"""Which model teaches: a folder, a repository of the Hub, a name of timm's, or a file of weights alone."""

import difflib
import re
from pathlib import Path

import timm
from timm.models import PretrainedCfg, get_pretrained_cfg, list_pretrained
from torch import Tensor, nn

from launch.redaction import redact
from pretrain.architectures import build, complete, keywords
from pretrain.backbone_config import BackboneConfig
from pretrain.backbones import load_other, restore
from pretrain.model_source import ModelSource, Preparation, find_source
from pretrain.pixels import Normalization
from pretrain.weight_files import read_tensors, some

_OPTION, _ARCHITECTURE = "--teacher", "--teacher-architecture"
_EXPECTED = (
    "a run folder that finetune/classify.py, pretrain/distill.py or pretrain/mae.py has finished, a folder with a timm "
    f"model (config.json, model.safetensors), a file of weights with {_ARCHITECTURE}, hf://user/name, or a name of "
    "timm's such as regnety_160.deit_in1k"
)


def named_architecture(name: str | None, channels: int) -> BackboneConfig | None:
    """What `--teacher-architecture` names, for images of so many channels; None where it is not given.

    Raises:
        ValueError: a name of weights and not of an architecture alone.
    """
    if name is not None and ("." in name or ":" in name):
        raise ValueError(
            f"{_ARCHITECTURE} {name} names pretrained weights, expected an architecture alone, such as "
            f"{name.rpartition(':')[2].rpartition('/')[2].partition('.')[0]}; the weights are those of {_OPTION}"
        )
    return None if name is None else BackboneConfig(name, channels=channels)


def find_teacher(where: str, *, architecture: BackboneConfig | None) -> ModelSource:
    """The model that a user named as the teacher.

    Args:
        where: what `find_source` takes, or timm's name of weights: those of its default tag where it has none. They
            come from the Hub, as all that is not a file here. Or a file of timm's weights alone.
        architecture: of such a file, which does not say it; input size and normalisation are then those that timm
            states for the architecture.

    Raises:
        ValueError: nothing there, a name without weights, a file without an architecture, or one for something that
            says itself what it is.
    """
    path, name = Path(where), redact(where)
    if "://" in where or path.is_dir():
        source = find_source(where, _OPTION, like=architecture)
        if architecture is not None and source.is_described:
            raise ValueError(_says_itself(name, source.backbone.name))
        return source
    if path.is_file():
        return _alone(path, name, architecture)
    repository = _repository(where)
    if architecture is not None:
        raise ValueError(_says_itself(name, where.partition(".")[0]))
    return find_source(f"hf://{repository}", f"{_OPTION} {where}:")


def build_teacher(source: ModelSource) -> nn.Module:
    """The model with its weights, as `find_teacher` found it: on the CPU, frozen, evaluating; without a head where
    `source.classes` is 0. Weights of older versions of timm are adapted as timm does it.

    Raises:
        ValueError: the weights are not those of such a model, or of one for another size.
    """
    if not source.is_folder:
        return restore(source)
    if source.path.is_file():
        arguments = keywords(source.backbone, source.pool) | {"num_classes": source.classes}
        model = build(source.backbone.name, arguments, 0)
    else:
        model = build(f"local-dir:{source.path}", {}, 0)
    loaded = load_other(model, source, keeps_head=True)
    unlike = (*(f"{name} is missing" for name in loaded.fresh), *loaded.resized)
    if unlike:
        raise ValueError(
            f"{_OPTION} {source.name}: expected all weights of a {source.backbone.name} for images of "
            f"{source.backbone.size[0]} x {source.backbone.size[1]}, found others: {some(unlike)}; give the model that "
            "they are of"
        )
    return model.requires_grad_(False).eval()


def _says_itself(name: str, architecture: str) -> str:
    return f"{_OPTION} {name}: is known to be a {architecture}; drop {_ARCHITECTURE}, which is for a file of weights"


def _repository(where: str) -> str:
    """The repository of the Hub from which timm takes what it knows by a name."""
    said = f"{_OPTION} {redact(where)}"
    on_hub = re.fullmatch(r"(?:hf[-_]hub:)?([\w.-]+/[\w.-]+)", where)
    if on_hub is not None or not re.fullmatch(r"[\w.-]+", where):
        hint = "" if on_hub is None else f"; on the Hub it would be hf://{on_hub[1]}"
        raise ValueError(f"{said}: expected {_EXPECTED}, found no such file or folder{hint}")
    stated = _stated(where)
    if stated is not None and stated.hf_hub_id:
        return stated.hf_hub_id
    if stated is not None and stated.url:
        raise ValueError(
            f"{said}: expected weights on the Hub, found that timm {timm.__version__} has them at {stated.url} alone; "
            f"download that file and give its path, with {_ARCHITECTURE} {stated.architecture}"
        )
    if timm.is_model(where):
        raise ValueError(
            f"{said}: timm {timm.__version__} has no weights of this name, expected one that has some; the closest: "
            f"{_closest(where)}"
        )
    raise ValueError(
        f"{said}: expected {_EXPECTED}, found no such file or folder, nor such a name; the closest names: "
        f"{_closest(where)}"
    )


def _closest(name: str) -> str:
    """Names of weights on the Hub: of the same architecture, or else of those with the most similar names."""
    known = [one for one in list_pretrained() if (stated := _stated(one)) is not None and stated.hf_hub_id]
    architecture = name.partition(".")[0]
    same = [one for one in known if one.partition(".")[0] == architecture]
    others = sorted({one.partition(".")[0] for one in known})
    close = difflib.get_close_matches(*((name, same) if same else (architecture, others)), n=3, cutoff=0)
    return ", ".join(close)


def _stated(name: str) -> PretrainedCfg | None:
    """What timm says of weights by their name; None where it knows none."""
    try:
        return get_pretrained_cfg(name)
    except RuntimeError:  # a tag that the architecture does not have
        return None


def _alone(path: Path, name: str, architecture: BackboneConfig | None) -> ModelSource:
    """A file of weights by timm's names."""
    said = f"{_OPTION} {name}"
    if architecture is None:
        beside = (path.parent / "config.json").is_file()
        fix = f"give its folder, {redact(str(path.parent))}, which says it" if beside else "give its name in timm, "
        fix += "" if beside else f"such as {_ARCHITECTURE} resnet18, or a folder with a timm model"
        raise ValueError(f"{said}: a file of weights does not say of which model they are; {fix}")
    if not timm.is_model(architecture.name):
        close = ", ".join(difflib.get_close_matches(architecture.name, timm.list_models(), n=3, cutoff=0))
        raise ValueError(
            f"{_ARCHITECTURE} {architecture.name}: expected a model of timm {timm.__version__}, found none of that "
            f"name; the closest: {close}"
        )
    tensors, stated = read_tensors(path, said), _stated(architecture.name)
    if stated is None or len(stated.mean) != architecture.channels:
        raise ValueError(
            f"{said}: how its images of {architecture.channels} channels were normalised is not known: timm states it "
            f"for no {architecture.name} of such; give a folder with a timm model"
        )
    backbone = complete(architecture)
    named = stated.classifier or "head"  # or the names of two heads
    head = tensors.get(f"{named if isinstance(named, str) else named[0]}.weight")
    pools_patches = "fc_norm.weight" in tensors and "norm.weight" not in tensors  # of a vision transformer
    return ModelSource(
        name,
        path,
        backbone,
        Normalization(tuple(stated.mean), tuple(stated.std)),
        Preparation(stated.interpolation, stated.crop_pct, stated.crop_mode),
        classes=len(head) if isinstance(head, Tensor) else 0,
        class_names=None,
        pool="mean" if pools_patches else "own",
        is_ours=False,
        is_folder=True,  # by timm's names, as in a folder of its
    )
