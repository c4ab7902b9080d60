"""Weights into timm models: a model as it was published, or a new classifier that starts from one."""

import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from timm.layers.patch_embed import resample_patch_embed
from torch import Tensor, nn

from pretrain.architectures import build
from pretrain.checkpoint import check_fit
from pretrain.config import EncoderConfig
from pretrain.model_source import ModelSource
from pretrain.positions import Interpolation, interpolate_positions

_OWN_NORM = "fc_norm."
_PATCHES = "patch_embed.proj.weight"


@dataclass(frozen=True)
class Loaded:
    """Names of a classifier's tensors that the source lacks, of the source's that have no use, and what was resized."""

    fresh: tuple[str, ...]
    left_out: tuple[str, ...]
    resized: tuple[str, ...]


def restore(source: ModelSource, *, headless: bool = False) -> nn.Module:
    """A model with all of its weights, on the CPU, in evaluation mode.

    `headless`: without its head; its forward then gives what the head saw, (b, d).

    Raises:
        ValueError: the weights do not fit what config.json describes, or timm cannot build that.
    """
    tensors = source.tensors()
    if source.is_folder:
        model = build(f"local-dir:{source.path}", {"num_classes": 0} if headless else {}, 0)
    else:
        model = source.build(0 if headless else source.classes)
    if headless:
        head = (*head_names(model), *_head_prefixes(model))
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(head)}
    check_fit(tensors, model.state_dict(), str(source.weights))
    model.load_state_dict(tensors)
    return model.requires_grad_(False).eval()


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the tensors of a timm model's head, or of its heads."""
    return tuple(f"{prefix}{kind}" for prefix in _head_prefixes(model) for kind in ("weight", "bias"))


def load_plain(
    model: nn.Module, source: ModelSource, config: EncoderConfig, mode: Interpolation, *, keeps_head: bool
) -> Loaded:
    """Fill a plain vision transformer of these sizes; what belongs to a head of its own stays as it is.

    Positions are interpolated for another grid, and the patch embedding resampled for another patch size so that
    resized patches give the same tokens, by the pseudo-inverse of the resizing (Beyer et al. 2023, arXiv:2212.08013,
    section 3.4).

    Raises:
        ValueError: names or shapes that do not fit.
    """
    tensors, old = source.tensors(), source.backbone.plain
    _check_axes(tensors, model, old, source)
    # A head belongs to the norm before it: what another head was trained on tells nothing to a new one.
    unused = [] if keeps_head else ["head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"]
    expected = model.state_dict()
    if "norm.weight" not in expected:
        unused += ["norm.weight", "norm.bias"]
    left_out = tuple(name for name in unused if tensors.pop(name, None) is not None)
    resized = [*source.remarks]
    if "pos_embed" in tensors and old.grid != config.grid:
        tensors["pos_embed"] = interpolate_positions(tensors["pos_embed"], old.grid, config.grid, mode)
        resized.append(f"positions interpolated from {_by(old.grid)} to {_by(config.grid)} patches as {mode} does")
    if _PATCHES in tensors and old.patch_size != config.patch_size:
        tensors[_PATCHES] = resample_patch_embed(tensors[_PATCHES], list(config.patch_size))
        resized.append(
            f"patch embedding resampled from {_by(old.patch_size)} to {_by(config.patch_size)} pixels by the "
            "pseudo-inverse of bicubic resizing, as FlexiViT does"
        )
    fresh = tuple(name for name in expected if name not in tensors and name.startswith(("head.", _OWN_NORM)))
    _fill(model, tensors, fresh, source)
    return Loaded(fresh, left_out, tuple(resized))


def load_other(model: nn.Module, source: ModelSource, *, keeps_head: bool) -> Loaded:
    """Fill any other timm model from a folder of the same architecture, resized as timm does it where sizes differ.

    Raises:
        ValueError: names or shapes that do not fit.
    """
    tensors = source.tensors()
    own = _head_prefixes(model)
    unused = () if keeps_head else (*own, _OWN_NORM)
    left_out = tuple(name for name in tensors if unused and name.startswith(unused))
    kept = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, of how timm calls it
        try:
            adapted = dict(_checkpoint_filter(model)(kept, model))
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            check_fit(kept, model.state_dict(), str(source.weights))  # which names what timm could not resize
            raise ValueError(f"{source.weights}: timm cannot adapt these weights to the model ({error})") from error
    expected = model.state_dict()
    fresh = tuple(name for name in expected if name not in adapted and name.startswith((*own, _OWN_NORM)))
    resized = tuple(
        f"{name} resized from {_by(tuple(kept[name].shape))} to {_by(tuple(tensor.shape))} as timm does"
        for name, tensor in adapted.items()
        if name in kept and kept[name].shape != tensor.shape
    )
    _fill(model, adapted, fresh, source)
    return Loaded(fresh, left_out, (*source.remarks, *resized))


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], fresh: tuple[str, ...], source: ModelSource) -> None:
    expected = model.state_dict()
    needed = {name: tensor for name, tensor in expected.items() if name not in fresh}
    check_fit(tensors, needed, str(source.weights))
    model.load_state_dict({**{name: expected[name] for name in fresh}, **tensors})


def _check_axes(tensors: Mapping[str, Tensor], model: nn.Module, old: EncoderConfig, source: ModelSource) -> None:
    """Refuse positions and a patch embedding that cannot be resized."""
    expected = model.state_dict()
    width = expected["pos_embed"].shape[2]
    sizes = {"pos_embed": (1, 1 + old.patches, width), _PATCHES: (width, old.channels, *old.patch_size)}
    resizable = {name: expected[name].new_empty(size, device="meta") for name, size in sizes.items()}
    check_fit({name: tensors[name] for name in sizes if name in tensors}, resizable, str(source.weights))


def _head_prefixes(model: nn.Module) -> tuple[str, ...]:
    named: Any = vars(model)["pretrained_cfg"].get("classifier") or "head"
    return tuple(f"{name}." for name in ((named,) if isinstance(named, str) else named))


def _checkpoint_filter(model: nn.Module) -> Callable[[dict[str, Tensor], nn.Module], Mapping[str, Tensor]]:
    """timm's own adaptation of weights to a model of other sizes, which stands beside the model's class."""
    found = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return (lambda tensors, _: tensors) if found is None else found


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
