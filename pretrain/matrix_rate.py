"""How fast a device multiplies large matrices: what the speed of a training step is compared with."""

import time
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_GPU_SIDE, _GPU_SECONDS = 8192, 0.3
_CPU_SECONDS = 0.12
# The smallest on a CPU. Without instructions for fp16 that is a thousand times slower.
_CPU_SIDES = {torch.float32: 512, torch.bfloat16: 512, torch.float16: 128}


def matrix_rate(device: torch.device, precision: Precision) -> float:
    """FLOP/s of the fastest of some products of square matrices, measured now, since nobody's data sheet is reached.

    It takes .3 s on a GPU and .15 s on a CPU. Other work on the device makes it less. On a GPU fp32 follows the setting
    of TF32 in force.

    Raises:
        ValueError: another precision, or a device that is neither a CPU nor a CUDA GPU.
    """
    if precision not in _DTYPES:
        raise ValueError(f"precision is {precision!r}, expected one of: {', '.join(_DTYPES)}")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"cannot time products of matrices on {device}; expected a CPU or a CUDA GPU")
    generator = torch.Generator(device).manual_seed(0)
    if device.type == "cpu":
        return _cpu_rate(_DTYPES[precision], generator)
    rate = _gpu_rate(_DTYPES[precision], generator)
    torch.cuda.reset_peak_memory_stats(device)  # what a run states as its peak is not these matrices
    return rate


def _gpu_rate(dtype: torch.dtype, generator: torch.Generator) -> float:
    matrix, product = _square(_GPU_SIDE, dtype, generator)
    torch.mm(matrix, matrix, out=product)  # the first one loads the library and allocates its workspace
    seconds = _timed_by_events(matrix, product, 1)
    return 2 * _GPU_SIDE**3 / _timed_by_events(matrix, product, max(3, int(_GPU_SECONDS / seconds)))


def _timed_by_events(matrix: Tensor, product: Tensor, count: int) -> float:
    """Seconds of the fastest product."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    with torch.cuda.device(matrix.device):
        events[0].record()
        for event in events[1:]:
            torch.mm(matrix, matrix, out=product)
            event.record()
        events[-1].synchronize()
    return min(before.elapsed_time(after) for before, after in pairwise(events)) / 1e3


def _cpu_rate(dtype: torch.dtype, generator: torch.Generator) -> float:
    """Of matrices as large as the time allows, which is not known before."""
    end = time.perf_counter() + _CPU_SECONDS
    side, best = _CPU_SIDES[dtype], 0.0
    while True:
        matrix, product = _square(side, dtype, generator)
        seconds = min(_timed(matrix, product) for _ in range(2))  # the first of a size prepares the other
        best = max(best, 2 * side**3 / seconds)
        if time.perf_counter() + 2 * 8 * seconds > end:
            break
        side *= 2
    while time.perf_counter() + seconds < end:
        best = max(best, 2 * side**3 / _timed(matrix, product))
    return best


def _timed(matrix: Tensor, product: Tensor) -> float:
    """Seconds of one product."""
    began = time.perf_counter()
    torch.mm(matrix, matrix, out=product)
    return time.perf_counter() - began


def _square(side: int, dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random numbers, since a GPU multiplies zeros faster, and room for their product."""
    matrix = torch.randn(side, side, generator=generator, device=generator.device).to(dtype)
    return matrix, torch.empty_like(matrix)
