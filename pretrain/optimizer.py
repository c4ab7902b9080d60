"""What changes the parameters: which of them decay, at what rate, by which algorithm, at any moment of a run."""

import math
from collections.abc import Callable, Collection, Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pretrain.config import OptimizerConfig
from pretrain.lamb import Lamb
from pretrain.layer_groups import layers_of
from pretrain.sharding import is_sharded


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    exempt: Collection[str] = (),
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Split the trainable parameters into those that decay and those that do not, and by layer where rates differ.

    Biases and norms (tensors of at most one dimension) do not. The class and mask tokens do, unless exempt: the paper
    does not say, and the released models were trained so.

    Args:
        model: frozen parameters are left out.
        weight_decay: of the groups that decay.
        exempt: names of tensors that do not decay either.
        layer_decay: of a timm model: each layer learns so much slower than the one after it (`layers_of`).

    Returns:
        Groups for a torch optimizer, those with no parameter left out, the first layer's first, in each what decays
        first. `params` are (name, parameter) pairs, from which the optimizer keeps `param_names`, so that its state can
        be saved by name. With layer decay a group has the `lr_scale` that the loop multiplies its learning rate by.

    Raises:
        ValueError: layer decay of a model whose layers are not known.
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    layers, count = ({}, 1) if layer_decay is None else layers_of(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_exempt = parameter.ndim <= 1 or name in exempt
        layer = layers.get(name, 0)
        if (layer, is_exempt) not in groups:
            group = {"params": [], "weight_decay": 0.0 if is_exempt else weight_decay}
            scale = {} if layer_decay is None else {"lr_scale": layer_decay ** (count - 1 - layer)}
            groups[layer, is_exempt] = group | scale
        groups[layer, is_exempt]["params"].append((name, parameter))
    return [groups[which] for which in sorted(groups)]


def exempt_parameters(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that do not decay by timm's account of the model, which may give patterns or nothing."""
    patterns = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()  # pyright: ignore[reportCallIssue]
    return frozenset(
        name for name, _ in model.named_parameters() if any(fnmatchcase(name, pattern) for pattern in patterns)
    )


def create_optimizer(
    model: nn.Module,
    config: OptimizerConfig,
    *,
    exempt: Collection[str] = (),
    layer_decay: float | None = None,
) -> torch.optim.Optimizer:
    """The algorithm that the config names, over `parameter_groups`, which says what ValueError is raised.

    The learning rate starts at 0: the loop writes `learning_rate` into each group before each step. A step can be
    skipped without waiting for the device, but for sgd's where parameters are sharded.
    """
    groups = parameter_groups(model, config.weight_decay, exempt=exempt, layer_decay=layer_decay)
    if config.algorithm == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, fused=True)
    if config.algorithm == "lamb":
        return Lamb(groups, betas=config.betas)
    assert config.algorithm == "sgd", config.algorithm
    fused = not is_sharded(model)  # torch has it for whole parameters alone
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, nesterov=True, fused=fused)
    # torch would begin with whatever the memory holds where the first step is skipped. From 0 the first is the same.
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def kinds_of_state(optimizer: torch.optim.Optimizer) -> set[str]:
    """What the algorithm keeps of a parameter, by name; of adamw and lamb before they have moved any, too."""
    if isinstance(optimizer, torch.optim.AdamW | Lamb):
        return {"step", "exp_avg", "exp_avg_sq"}
    return {kind for state in optimizer.state.values() for kind in state}


def peak_learning_rate(config: OptimizerConfig, batch_size: int) -> float:
    """The learning rate at the end of warm-up, linear in the batch (Goyal et al. 2017, arXiv:1706.02677).

    Args:
        config: base_lr is for 256 images.
        batch_size: images of an optimizer step, over all processes and accumulated micro-batches.

    Raises:
        ValueError: the schedule would end above this.
    """
    peak = config.base_lr * batch_size / 256
    if config.min_lr > peak:
        raise ValueError(
            f"--optimizer.min-lr {config.min_lr:g} is above the peak learning rate {peak:g} "
            f"(--optimizer.base-lr {config.base_lr:g} x batch {batch_size} / 256); lower it or raise the base"
        )
    return peak


def learning_rate(epoch: float, config: OptimizerConfig, *, peak: float, epochs: float) -> float:
    """Linear warm-up from 0, then half a cosine down to min_lr (He et al. 2022, arXiv:2111.06377, Table 8).

    Args:
        epoch: passes over the data so far, with their fraction; past the end the rate stays at min_lr.
        config: warmup_epochs and min_lr.
        peak: from `peak_learning_rate`.
        epochs: length of the whole run.

    Raises:
        ValueError: nothing follows the warm-up.
    """
    assert epoch >= 0, epoch
    config.check_epochs(epochs)
    if epoch < config.warmup_epochs:
        return peak * epoch / config.warmup_epochs
    done = min(1.0, (epoch - config.warmup_epochs) / (epochs - config.warmup_epochs))
    return config.min_lr + (peak - config.min_lr) * (1 + math.cos(math.pi * done)) / 2


def schedule(config: OptimizerConfig, batch_size: int, epochs: float) -> Callable[[float], float]:
    """`learning_rate` as a function of the epoch alone, for a run of so many epochs. Raises ValueError as it does."""
    peak = peak_learning_rate(config, batch_size)
    return lambda epoch: learning_rate(epoch, config, peak=peak, epochs=epochs)


def gradient_norms(parameters: Iterable[nn.Parameter]) -> Float[Tensor, " parameters"]:
    """The Euclidean norm of each parameter's gradient, whole also where it is sharded; every process must call it.

    0 for a parameter without a gradient; not finite where any number of the gradient is not.
    """
    gradients = [parameter.grad for parameter in parameters]
    present = [gradient for gradient in gradients if gradient is not None]
    norms = torch.stack(torch._foreach_norm(present))  # pyright: ignore[reportPrivateImportUsage]
    if isinstance(norms, DTensor):
        norms = norms.full_tensor()
    if len(present) == len(gradients):
        return norms
    has = torch.tensor([gradient is not None for gradient in gradients], device=norms.device)
    return torch.zeros(len(gradients), device=norms.device, dtype=norms.dtype).masked_scatter(has, norms)
