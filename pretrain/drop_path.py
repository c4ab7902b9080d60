"""Stochastic depth (Huang et al. 2016, arXiv:1603.09382) whose randomness is an argument.

timm's own layers draw from torch's global generator, so that a run on two processes would drop other paths than a run
on one. These read noise that the training step has drawn by run position.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from timm.layers.drop import DropPath
from torch import Tensor, nn

from data_pipeline.order import Integers
from data_pipeline.randomness import Purpose, hash_array, key, uniform_array

# Classes that draw from torch's global generator in training, by name, and the attribute that says how much. By name,
# for torch and some versions of timm have no public way to some of them.
_RANDOM = {
    "_DropoutNd": "p",
    "MultiheadAttention": "dropout",
    "RNNBase": "dropout",
    "RReLU": "upper",
    "DropPath": "drop_prob",
    "DropBlock2d": "drop_prob",
    "PatchDropout": "prob",
    "PatchDropoutWithIndices": "prob",
}
# What some of timm's models act on in their own forward: dropout before the head, VOLO's boxes.
_OF_MODELS = ("drop_rate", "mix_token")


@dataclass
class PathNoise:
    """Uniform numbers (b, paths) for the next forward pass: a row for each image, a column for each path."""

    values: Tensor | None = None


class KeyedDropPath(nn.Module):
    """Drops the path of rows whose noise in this path's column lies below `rate`; the others are scaled up to match."""

    def __init__(self, rate: float, noise: PathNoise, column: int) -> None:
        super().__init__()
        self.rate = rate
        self._noise = noise
        self._column = column

    def forward(self, x: Tensor) -> Tensor:
        """x: (b, ...), of as many rows as the noise has."""
        if not self.training:
            return x
        assert self._noise.values is not None
        assert len(self._noise.values) == len(x), "the noise is of another batch"
        keep = (self._noise.values[:, self._column] >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * keep.view(-1, *[1] * (x.ndim - 1))


class DropPaths:
    """All drop paths of a timm model, taken from its hands. All of timm's models have them as layers of one class."""

    def __init__(self, model: nn.Module) -> None:
        self.noise = PathNoise()
        self.paths = 0
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, DropPath):
                    assert child.scale_by_keep
                    setattr(parent, name, KeyedDropPath(child.drop_prob, self.noise, self.paths))
                    self.paths += 1

    def draw(self, positions: Integers, seed: int, device: torch.device) -> Float[Tensor, "b paths"]:
        """The noise of the rows at these run positions."""
        seeds = hash_array(key(seed, Purpose.DROP_PATH), positions.astype("uint64"))
        return torch.from_numpy(uniform_array(seeds, self.paths)).to(device, non_blocking=True)


def drop_evenly(model: nn.Module, rate: float) -> None:
    """Give all paths of a timm model one rate, the first block's too, which timm builds without; before `DropPaths`.

    Raises:
        ValueError: a path of this model cannot be told apart from other layers.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if name.startswith("drop_path") and isinstance(child, DropPath | nn.Identity):
                setattr(parent, name, DropPath(rate))
    others = [name for name, each in model.named_modules() if isinstance(each, DropPath) and each.drop_prob != rate]
    if others or not any(isinstance(each, DropPath) for each in model.modules()):
        found = f"its path {others[0]} has a rate of its own" if others else "it has no paths to drop"
        raise ValueError(f"--drop-path-rule even: {found}; leave it out, or take a plain vision transformer")


def check_deterministic_forward(model: nn.Module) -> None:
    """Make sure that, once `DropPaths` has been there, a forward pass in training draws no random numbers of its own.

    Raises:
        ValueError: naming the layers that do.
    """
    found = []
    for name, module in model.named_modules():
        kinds = [_RANDOM[kind.__name__] for kind in type(module).__mro__ if kind.__name__ in _RANDOM]
        attribute = next((one for one in (*kinds, *_OF_MODELS) if getattr(module, one, None)), None)
        if attribute is not None:
            where = name or "the model itself"
            found.append(f"{where} ({type(module).__name__}, {attribute} {getattr(module, attribute):g})")
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise ValueError(
            f"the model draws random numbers of its own in training, so that a run could not go on as it would have: "
            f"{', '.join(found[:3])}{more}; build it with every rate of dropout at 0 (stochastic depth is allowed)"
        )
