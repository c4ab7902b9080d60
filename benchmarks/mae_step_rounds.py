"""Training steps in turn, in one process: first that all compute the same, then how long each takes."""

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mae_step_contenders import BASE, Running, Setting, autoencoder, set_up

from pretrain.flops import autoencoder_flops, training_flops
from pretrain.matrix_rate import matrix_rate

# Of the losses at the start, relative: in fp32 sums differ in their order, bf16 has 8 bits.
_MOST_APART = {"fp32": 1e-4, "bf16": 2e-2}


class DisagreementError(Exception):
    """Contenders do not compute the same, so that times say nothing: the text says which."""


def time_rounds(
    setting: Setting, names: list[str], rounds: int, steps: int, advance: Callable[[str], None]
) -> dict[str, Any]:
    """Seconds of a step by contender, round by round; losses before the first step; FLOPs and the hardware's rate.

    advance: is called after each turn of a contender, the first of which warms up and compiles.

    Raises:
        DisagreementError: losses differ by more than rounding, in fp32 or in the precision that is timed.
    """
    if setting.device == "cpu":
        torch.set_num_threads(setting.threads)
    device = torch.device(setting.device)
    flops = training_flops(autoencoder_flops(autoencoder(setting.model, 224)))
    rates = [matrix_rate(device, setting.precision)]
    running: dict[str, Running] = {}
    losses: dict[str, dict[str, float]] = {"fp32": {}, setting.precision: {}}
    for name in names:
        running[name] = set_up(name, setting)
        losses["fp32"][name] = running[name].reference()
        losses[setting.precision][name] = running[name].step().item()
        running[name].step()
        check_losses(losses["fp32"], losses["fp32"][BASE], "fp32")
        check_losses(losses[setting.precision], losses["fp32"][BASE], setting.precision)
        advance(name)
    found = []
    for number in range(rounds):
        found.append({})
        for name in names if number % 2 == 0 else reversed(names):
            found[-1][name] = _seconds(running[name], steps, device)
            advance(name)
    rates.append(matrix_rate(device, setting.precision))
    del running
    gc.collect()
    return {"losses": losses, "flops_an_image": flops, "matrix_rate": max(rates), "rounds": found}


def check_losses(losses: Mapping[str, float], expected: float, precision: str) -> None:
    """Raise DisagreementError unless all are what is expected, up to rounding in the precision."""
    for name, loss in losses.items():
        if not abs(loss - expected) <= _MOST_APART[precision] * abs(expected):
            raise DisagreementError(
                f"{name} has a loss of {loss:.6g} in {precision}, expected {expected:.6g}, that of {BASE} in fp32: "
                "they do not compute the same, so nothing was timed"
            )


def _seconds(running: Running, steps: int, device: torch.device) -> float:
    """Of a step, on average."""
    _wait(device)
    began = time.perf_counter()
    for _ in range(steps):
        running.step()
    _wait(device)
    return (time.perf_counter() - began) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
