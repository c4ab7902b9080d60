"""A linear layer on frozen features, and LARS to train it: what a probe learns, and how."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from timm.optim.lars import Lars
from torch import Tensor, nn

from finetune.probe_config import LarsConfig
from pretrain.encoder import allocate

_EPS = 1e-6
_MOMENTUM = 0.1


class LinearLayer(nn.Module):
    """Features less their mean, over their deviation, then a linear layer (He et al. 2022, appendix A.1).

    The mean and variance are a training batch's, and otherwise their running averages: a batch norm without parameters,
    over the batch of all processes.
    """

    mean: Float[Tensor, " d"]
    variance: Float[Tensor, " d"]

    def __init__(self, width: int, classes: int, *, std: float, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        with torch.device("meta"):  # nothing is drawn from the global generator
            self.head = nn.Linear(width, classes)
        allocate(self.head)
        with torch.no_grad():
            nn.init.trunc_normal_(self.head.weight, std=std, generator=generator)
            nn.init.zeros_(self.head.bias)

    @torch.no_grad()
    def standardize(
        self, features: Float[Tensor, "b d"], gather: Callable[[list[Any]], list[Any]]
    ) -> Float[Tensor, "b d"]:
        """Standardise this process's equal share of a batch by the whole batch, which the running averages then note.

        `gather` puts together what every process gives it, in the same order on each. Every process must call this.
        """
        values = features.double()
        # Sums in double precision: their order, which is the processes', is lost when they are rounded to single.
        own = torch.stack([values.sum(dim=0), values.square().sum(dim=0)]).cpu()
        shares = gather([own])
        rows = len(features) * len(shares)
        mean, square = torch.stack(shares).sum(dim=0).to(features.device) / rows
        variance = (square - mean.square()).clamp(min=0)
        self.mean.lerp_(mean.float(), _MOMENTUM)
        self.variance.lerp_((variance * (rows / max(1, rows - 1))).float(), _MOMENTUM)
        return ((values - mean) / (variance + _EPS).sqrt()).float()

    def forward(self, standardized: Float[Tensor, "b d"]) -> Float[Tensor, "b classes"]:
        """Logits of what `standardize` gave."""
        return self.head(standardized)

    @torch.no_grad()
    def predict(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b classes"]:
        """Logits of features, standardised by the running averages."""
        return self.head((features - self.mean) / (self.variance + _EPS).sqrt())


def create_lars(model: nn.Module, config: LarsConfig) -> Lars:
    """LARS that adapts the rates of weights and not of biases, as MoCo v3 and MAE do; the loop writes the rate."""
    weights = [(name, parameter) for name, parameter in model.named_parameters() if parameter.ndim > 1]
    biases = [(name, parameter) for name, parameter in model.named_parameters() if parameter.ndim <= 1]
    shared = {"momentum": config.momentum, "trust_coeff": config.trust, "eps": 0.0}
    groups = [{"params": weights, "always_adapt": True} | shared, {"params": biases, "always_adapt": False} | shared]
    return Lars(groups, lr=0.0)
