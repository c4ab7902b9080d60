"""Ours, set up as its users do."""

import time
from dataclasses import asdict
from statistics import median
from typing import Any

import torch
from loader_setting import AbsentError, Loader, Setting
from torch import Tensor

from data_pipeline.augment import RandomResizedCrop
from data_pipeline.manifest import read_manifest
from data_pipeline.rows import FillReport, Part
from data_pipeline.stream import Stream

_COPIES = 20


def plain(setting: Setting) -> Loader:
    """Reading and decoding each time."""
    return _loader(setting)


def in_memory(setting: Setting) -> Loader:
    """Decoded once, into memory."""
    return _loader(setting, cache="memory")


def on_device(setting: Setting) -> Loader:
    """Decoded once, views made in batches, on the CPU."""
    return _loader(setting, cache="device")


def on_gpu(setting: Setting) -> Loader:
    """Decoded once, kept on the GPU, views made there."""
    if not torch.cuda.is_available():
        raise AbsentError("no GPU here")
    return _loader(setting, cache="device", device="cuda")


def _loader(setting: Setting, **options: Any) -> Loader:
    stream = Stream(
        [Part(read_manifest(setting.folder), "train")],
        RandomResizedCrop((setting.size, setting.size)),
        batch_size=setting.batch_size,
        seed=0,
        workers=setting.workers,
        **options,
    )

    def begin() -> None:
        stream.report = FillReport()

    def stages(images: Tensor) -> dict[str, Any]:
        found = stages_of(stream)
        if torch.cuda.is_available() and not images.is_cuda:
            found["here"]["transfer"] = transfer_seconds(images) / len(images) * 1e6
        return found

    batches = ((batch.images, batch.labels) for batch in stream)
    return Loader(batches, begin, stages, stream.close)


def stages_of(stream: Stream) -> dict[str, Any]:
    """Microseconds an image by stage, of the workers and of this process, since the report was new; and what binds."""
    return {**asdict(stream.stages()), "binds": stream.what_binds()}


def transfer_seconds(images: Tensor) -> float:
    """Seconds to copy a batch from page-locked memory to the GPU: the median of some."""
    locked, taken = images.pin_memory(), []
    for _ in range(_COPIES):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        locked.to("cuda", non_blocking=True)
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
    return median(taken)
