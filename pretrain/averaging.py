"""The exponential moving average of a model's weights, which often does better than the weights themselves.

Averages over the course of optimisation: Polyak & Juditsky 1992 (doi:10.1137/0330046). With a decay, of everything that
state_dict() holds, as timm's ModelEmaV3 keeps them; the warm-up is that of TensorFlow's ExponentialMovingAverage.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pretrain.buffers import kept_buffers
from pretrain.sharding import like, own_part

_torch: Any = torch  # its operations on lists of tensors have no public names


class Average:
    """Of all parameters and floating buffers; integer buffers are copied. Where parameters are shared out, so is it.

    Args:
        model: on its device, compiled and shared out as it will be, with the weights that training starts with.
        decay: how much of the average stays in an update, 0 <= decay < 1.
        warm_up: the decay is min(decay, (1 + t) / (10 + t)) in an update that t others have come before, so that what
            the model was at the start is soon forgotten.

    Raises:
        ValueError: a decay outside its range.
    """

    def __init__(self, model: nn.Module, decay: float, *, warm_up: bool = False) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of the weights' average is {decay:g}, expected 0 <= decay < 1, such as 0.9999")
        self.decay = decay
        self.warm_up = warm_up
        theirs = model.state_dict(keep_vars=True)
        twins: dict[int, Tensor] = {}  # a tensor may have several names
        for tensor in theirs.values():
            if id(tensor) not in twins:
                twins[id(tensor)] = tensor.detach().clone()
        self._tensors = {name: twins[id(tensor)] for name, tensor in theirs.items()}
        self._buffers = [self._tensors[name] for name in kept_buffers(model)]
        self._of_type: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        for mine, its in self._pairs(theirs):
            self._of_type.setdefault(mine.dtype, []).append((mine, its))
        # On the device, like whether a step was skipped: nobody waits for either.
        self._updates = torch.zeros((), dtype=torch.int64, device=next(iter(theirs.values())).device)
        self._is_away = False

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The average, by the names of state_dict()."""
        assert not self._is_away, "the average stands in the model"
        return self._tensors

    @property
    def buffers(self) -> list[Tensor]:
        """Those of `tensors` that belong to buffers."""
        assert not self._is_away, "the average stands in the model"
        return self._buffers

    @torch.no_grad()
    def update(self, applied: Bool[Tensor, ""]) -> None:
        """Draw the average towards the model, unless the step was not applied. Waits for nothing."""
        assert not self._is_away, "the average stands in the model"
        weight = (1 - self._decay_now()) * applied
        self._updates += applied
        for dtype, pairs in self._of_type.items():
            mine, its = ([own_part(tensor.detach()) for tensor in some] for some in zip(*pairs, strict=True))
            if dtype.is_floating_point:
                _torch._foreach_lerp_(mine, its, [weight.to(dtype)] * len(mine))
            else:
                _torch._foreach_copy_(mine, its)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """In here the model has the averaged weights; after it, to the bit, those that it had before."""
        assert not self._is_away, "the average stands in the model already"
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    def state(self) -> dict[str, int]:
        """What a checkpoint holds beside the tensors, for JSON; waits for the device."""
        return {"updates": int(self._updates.item())}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, int]) -> None:
        """Go on with whole tensors, of exactly these names and shapes, and the state that was taken with them."""
        assert tensors.keys() == self.tensors.keys()
        for name, mine in self.tensors.items():
            own_part(mine).copy_(own_part(like(tensors[name], mine)))
        self._updates.fill_(state["updates"])

    def _decay_now(self) -> Float[Tensor, ""]:
        decay = torch.full((), self.decay, dtype=torch.float64, device=self._updates.device)
        if not self.warm_up:
            return decay
        count = self._updates.double()
        return torch.minimum(decay, (1 + count) / (10 + count))

    def _pairs(self, theirs: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """(averaged, the model's) of every tensor, each once."""
        pairs = {id(tensor): (self._tensors[name], tensor) for name, tensor in theirs.items()}
        return list(pairs.values())

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        """Exchange values, not tensors: whoever holds on to a parameter still has it."""
        for pair in self._pairs(model.state_dict(keep_vars=True)):
            mine, its = (own_part(tensor.detach()) for tensor in pair)
            held = its.clone()
            its.copy_(mine)
            mine.copy_(held)
        self._is_away = not self._is_away
