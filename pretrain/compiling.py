"""torch.compile for training: one graph, and a count of how often it had to be made again."""

import time
from contextlib import AbstractContextManager
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch._dynamo.utils import counters

from launch.console import Console


class Compilation:
    """Compiles a model's forward in place, and tells when that happens again after the first step.

    Whole, or each transformer block where `by_block`: gathering sharded parameters breaks a graph, and recomputation
    inside it keeps gradients from travelling while others are still computed. Shapes are fixed. What else is done to
    blocks, in place, is to be done afterwards, so that it stays outside of their graphs.

    backend: of torch.compile; inductor makes fast code, others show what it is given.
    """

    def __init__(self, model: nn.Module, console: Console, *, by_block: bool, backend: str = "inductor") -> None:
        self._console = console
        self._warm: int | None = None
        self._began = time.perf_counter()
        self._before = _graphs()
        parts = [module for module in model.modules() if isinstance(module, Block)] if by_block else [model]
        for part in parts:  # a break in the graph is an error
            part.forward = torch.compile(part.forward, fullgraph=True, dynamic=False, backend=backend)

    @property
    def again(self) -> int:
        """Graphs made after the first step: each costs seconds to minutes."""
        return 0 if self._warm is None else _graphs() - self._before - self._warm

    def stepped(self) -> None:
        """A step has been given to the device: the first one compiles."""
        if self._warm is None:
            self._warm = _graphs() - self._before
            seconds = time.perf_counter() - self._began
            self._console.say(f"compiled {self._warm} graph{'s' * (self._warm != 1)} in {seconds:.0f} s")

    def aside(self) -> AbstractContextManager[Any]:
        """In here the model runs as it was written: each other shape, as evaluation has, would be compiled as well."""
        return torch.compiler.set_stance("force_eager")

    def sentence(self) -> str:
        """What to say at the end."""
        if self.again == 0:
            return "torch.compile: no graph was made again after the first step"
        return (
            f"warning: torch.compile: {self.again} graphs were made again after the first step, which has cost time; "
            "TORCH_LOGS=recompiles says why"
        )


def _graphs() -> int:
    return counters["stats"]["unique_graphs"]
