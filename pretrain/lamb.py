"""LAMB (You et al. 2020, arXiv:1904.00962, algorithm 2): Adam whose step is as long as the tensor that it moves."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial

from pretrain.sharding import own_part

_torch: Any = torch  # its operations on lists of tensors have no public names


class Lamb(torch.optim.Optimizer):
    """Of tensors that decay; the others take Adam's step at the learning rate itself, as in apex's FusedLAMB.

    DeiT III (Touvron et al. 2022, arXiv:2204.07118) was trained with that, at the defaults here: its released code sets
    eps, and leaves the betas, and gradients clipped at a norm of 1, which is the caller's part, at apex's values.

    Like torch's fused optimizers it can be told, without anybody waiting for the device, what to divide the gradients
    by (`grad_scale`; they are divided in place) and whether to leave everything as it is (`found_inf` is 1).
    The state of a parameter is `exp_avg` and `exp_avg_sq`, like it, and `step`, a number, all on its device.

    Args:
        params: see torch's optimizers.
        lr: learning rate.
        betas: decay rates of the running averages of the gradient and of its square.
        eps: is added to the root of the latter.
        weight_decay: how much of a tensor is added to its update before that is scaled.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.0,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        # torch moves the steps of a loaded state to the device for optimizers that call themselves capturable.
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "capturable": True}
        )
        self.grad_scale: Tensor | None = None
        self.found_inf: Tensor | None = None
        self._step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._move(parameters, group)

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [self._state_of(parameter) for parameter in parameters]
        weights = [own_part(parameter) for parameter in parameters]
        gradients = [own_part(parameter.grad) for parameter in parameters if parameter.grad is not None]
        firsts = [own_part(state["exp_avg"]) for state in states]
        seconds = [own_part(state["exp_avg_sq"]) for state in states]
        steps = [state["step"] for state in states]
        beta1, beta2 = group["betas"]
        keep1, keep2, acts = beta1, beta2, 1.0
        if self.grad_scale is not None:
            _torch._foreach_div_(gradients, self.grad_scale)
        if self.found_inf is not None:
            # Without a gradient and without forgetting the averages stay, and at a rate of 0 so do the weights.
            is_bad = self.found_inf > 0
            for gradient in gradients:
                gradient.masked_fill_(is_bad, 0)
            keep1, keep2 = (torch.where(is_bad, 1.0, beta) for beta in (beta1, beta2))
            acts = 1 - self.found_inf
        _torch._foreach_mul_(firsts, keep1)
        _torch._foreach_add_(firsts, gradients, alpha=1 - beta1)
        _torch._foreach_mul_(seconds, keep2)
        _torch._foreach_addcmul_(seconds, gradients, gradients, value=1 - beta2)
        _torch._foreach_add_(steps, acts)
        updates = _adam(firsts, seconds, torch.stack(steps), group)
        rates = -group["lr"] * acts
        if group["weight_decay"] == 0:
            _torch._foreach_mul_(updates, rates)
        else:
            _torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
            length, wanted = _lengths(updates, parameters[0]), _lengths(weights, parameters[0])
            trust = torch.where((length > 0) & (wanted > 0), wanted / length, 1.0)
            _torch._foreach_mul_(updates, (rates * trust).unbind())
        _torch._foreach_add_(weights, updates)

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def _adam(firsts: list[Tensor], seconds: list[Tensor], steps: Tensor, group: dict[str, Any]) -> Sequence[Tensor]:
    """The running averages, each freed of its bias towards 0, one over the root of the other."""
    counts = steps.double().clamp(min=1)  # 0 where a first step is skipped
    bias1, bias2 = (1 - beta**counts for beta in group["betas"])
    updates: Sequence[Tensor] = _torch._foreach_sqrt(seconds)
    _torch._foreach_div_(updates, bias2.sqrt().float().unbind())
    _torch._foreach_add_(updates, group["eps"])
    _torch._foreach_mul_(updates, bias1.float().unbind())
    _torch._foreach_reciprocal_(updates)
    _torch._foreach_mul_(updates, firsts)
    return updates


def _lengths(parts: Sequence[Tensor], parameter: Tensor) -> Float[Tensor, " parts"]:
    """The Euclidean norm of each tensor, whole also where this process holds parts; `parameter` is shared as they are.

    Every process must call it then.
    """
    norms = torch.stack(_torch._foreach_norm(parts))
    if not isinstance(parameter, DTensor):
        return norms
    mesh = parameter.device_mesh
    assert all(placement.is_shard() for placement in parameter.placements)
    return DTensor.from_local(norms.square(), mesh, [Partial()] * mesh.ndim).full_tensor().sqrt()
