"""What a run measures of itself: rates, waiting, memory, and the share of the hardware's speed that it uses."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pretrain.device_clock import DeviceClock
from pretrain.world import World


@dataclass(frozen=True)
class Work:
    """What a step costs, and how fast this device could be.

    flops: of training on one image, by formula. rate: FLOP/s of large matrix products in the run's precision, measured
    on this device. Their quotient with the images a second is the model FLOPs utilisation, MFU (Chowdhery et al. 2022,
    arXiv:2204.02311, appendix B).
    """

    flops: float
    rate: float


@dataclass
class Totals:
    """Of the whole of this process's training, evaluation left out."""

    seconds: float = 0.0
    images: int = 0
    waited: float = 0.0
    transfer: float = 0.0
    stalled: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)

    def add(self, more: "Totals") -> None:
        """What was measured since."""
        self.seconds += more.seconds
        self.images += more.images
        self.waited += more.waited
        self.transfer += more.transfer
        self.stalled += more.stalled
        self.shares = {name: self.shares.get(name, 0.0) + seconds for name, seconds in more.shares.items()}


@dataclass
class Meter:
    """Rates since the last logged line; `images` of a step are those of all processes. `shares`: see `Options`."""

    world: World
    work: Work | None
    clock: DeviceClock
    shares: Mapping[str, Callable[[], float]] = field(default_factory=dict)
    shown: dict[str, str | float] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)

    def __post_init__(self) -> None:
        self.restart(0.0, 0.0)

    def restart(self, waited: float, stalled: float) -> None:
        """Forget what was measured: the time since has gone into something else than training.

        waited, stalled: what those who count them stand at, in seconds.
        """
        self._begin(waited, stalled, self._taken())

    def _begin(self, waited: float, stalled: float, taken: Mapping[str, float]) -> None:
        self._began, self._images = time.perf_counter(), 0
        self._waited, self._stalled, self._taken_before = waited, stalled, taken
        self._transfer, self._idle = self.clock.transfer, self.clock.idle
        self.clock.restart()

    def count(self, images: int) -> None:
        """So many images went through a step, over all processes."""
        self._images += images

    def line(
        self,
        step: int,
        epoch: float,
        logged: Mapping[str, Tensor],
        more: Mapping[str, float],
        *,
        waited: float,
        stalled: float,
    ) -> dict[str, Any]:
        """What is logged at a step, `more` among it; asks all processes, and waits for the device.

        data_wait: share of the time in which training waited for data; on a GPU only while that had nothing to do.
        transfer_wait: in which the GPU waited for a copy, or for what is made of a batch ahead of its step.
        save_stall: in which training waited for checkpoints. And each of `shares` by its name. processes: how many
        there are, so that device-hours can be summed up.
        """
        values = {name: self.world.mean(value) for name, value in logged.items()}
        seconds = time.perf_counter() - self._began
        self.clock.read()
        waits = waited - self._waited
        if self.clock.is_known:
            waits = min(waits, self.clock.idle - self._idle)
        transfer = self.clock.transfer - self._transfer
        taken = self._taken()
        shares = {name: taken[name] - self._taken_before[name] for name in taken}
        result: dict[str, Any] = {"step": step, "epoch": epoch, **values, **more}
        result["images_per_second"] = self._images / seconds
        result["data_wait"] = waits / seconds
        if self.clock.is_known:
            result["transfer_wait"] = transfer / seconds
        result["save_stall"] = (stalled - self._stalled) / seconds
        result |= {name: share / seconds for name, share in shares.items()}
        if self.work is not None:
            result["mfu"] = self._images * self.work.flops / (seconds * self.work.rate * self.world.size)
        result["memory"] = peak_memory(self.world.device)
        result["processes"] = self.world.size  # another start of the run may have had another number of them
        self.shown = {"loss": values["loss"], "data_wait": f"{result['data_wait']:.1%}"}
        if "mfu" in result:
            self.shown["mfu"] = f"{result['mfu']:.0%}"
        self.totals.add(Totals(seconds, self._images, waits, transfer, stalled - self._stalled, shares))
        self._begin(waited, stalled, taken)
        return result

    def sentence(self) -> str | None:
        """How the device was used, over the whole of this training; None where nothing was measured."""
        totals = self.totals
        if totals.images == 0:
            return None
        parts = []
        if self.world.size > 1:
            parts.append(f"{totals.images / totals.seconds:,.0f} images/s over all processes")
        if self.work is not None:
            used = totals.images * self.work.flops / (totals.seconds * self.work.rate * self.world.size)
            rate = f"{self.work.rate / 1e12:,.0f} T" if self.work.rate > 1e12 else f"{self.work.rate / 1e9:,.0f} G"
            parts.append(f"MFU {used:.0%} of the {rate}FLOP/s that large matrices reach here")
        parts += [f"the {name} took {share / totals.seconds:.1%} of the time" for name, share in totals.shares.items()]
        if self.clock.is_known:
            what = " or the ".join(["copies", *totals.shares])
            parts.append(f"the GPU waited for {what} {totals.transfer / totals.seconds:.1%} of the time")
        parts.append(f"checkpoints held training up {totals.stalled / totals.seconds:.1%} of the time")
        parts.append(f"peak memory {peak_memory(self.world.device) / 1e9:.1f} GB")
        return f"step: {'; '.join(parts)}"

    def _taken(self) -> dict[str, float]:
        return {name: seconds() for name, seconds in self.shares.items()}


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
