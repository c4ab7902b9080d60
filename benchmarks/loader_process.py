"""Measures one contender, in a process that does nothing else: `python loader_process.py JOB`, both ways in JSON.

A fresh process for each, so that none profits from what another has imported, started or left in its heap.
"""

import dataclasses
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loader_contenders import CORE, READING, SMALL_READING, Contender, contender_named
from loader_data import LABELS
from loader_setting import AbsentError, Loader, Setting

if TYPE_CHECKING:
    from torch import Tensor

_WARM_SECONDS = 2.0
_WARM_BATCHES = 10  # at least: more than any loader fills ahead
_CHECKED = 3  # batches, beside the first
_RUN = 6  # labels in a row that tell whether an order is the stored one
_ROUNDS = 8  # of different boxes


@dataclasses.dataclass(frozen=True)
class Job:
    """What is measured: a contender, with its data, for so many seconds. size: of a view's sides, in pixels.

    began: `time.perf_counter()` before this process was started, a clock that all processes of a machine share.
    """

    contender: str
    data: str
    size: int
    seconds: float
    workers: int
    batch_size: int
    began: float


def main() -> None:
    """Measure, print the result on the last line."""
    job = Job(**json.loads(sys.argv[1]))
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    contender = contender_named(job.contender)
    try:
        result = _measure(contender, job)
    except AbsentError as absent:
        result = {"absent": str(absent)}
    print(json.dumps(result), file=answer, flush=True)


def _measure(contender: Contender, job: Job) -> dict[str, Any]:
    if find_spec(contender.needs) is None:
        raise AbsentError("not installed: pip install -e '.[benchmark]'")
    alone = contender.group in (CORE, READING, SMALL_READING)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[-1:] if alone else cores[-job.workers :])
    module, _, name = contender.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    importlib.import_module(contender.needs)
    if contender.group in (READING, SMALL_READING):
        return _measure_reading(function(Path(job.data)), job)
    if contender.group == CORE:
        return _measure_core(function(job.size), job)
    return _measure_loader(function, job, time.perf_counter() - job.began)


def _measure_reading(read: Any, job: Job) -> dict[str, Any]:
    read()  # so that all of it is in the page cache, and every tar open
    images = size = 0
    begin = time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < job.seconds:
        more = read()
        images, size = images + more[0], size + more[1]
    return {"images_per_second": images / elapsed, "bytes_per_second": size / elapsed, "images": images}


def _measure_core(way: Any, job: Job) -> dict[str, Any]:
    import torch
    from loader_paths import difference, draw_crops, read_images

    torch.set_num_threads(1)
    images = read_images(Path(job.data))
    rounds = [draw_crops(images, job.size, number) for number in range(_ROUNDS)]
    for image, crop in zip(images, rounds[-1], strict=True):  # to warm up
        way(image, crop)
    passes, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < job.seconds:
        for image, crop in zip(images, rounds[passes % _ROUNDS], strict=True):
            way(image, crop)
        passes += 1
    return {
        "images_per_second": passes * len(images) / elapsed,
        "images": passes * len(images),
        "grey_levels_from_pillow": difference(way, images, rounds[0], job.size),
    }


def _measure_loader(set_up: Callable[[Setting], Loader], job: Job, import_seconds: float) -> dict[str, Any]:
    stored = json.loads((Path(job.data).parent / LABELS).read_text())
    loader = set_up(Setting(Path(job.data), len(stored), job.size, job.batch_size, job.workers))
    images, labels = next(loader.batches)
    first = time.perf_counter() - job.began
    check_batch(images, labels, job, stored)
    for _ in range(_CHECKED):
        check_batch(*next(loader.batches), job, stored)
    count, begin = 0, time.perf_counter()  # until what was filled ahead meanwhile is used up
    while count < _WARM_BATCHES or time.perf_counter() - begin < _WARM_SECONDS:
        example = next(loader.batches)[0]
        count += 1
    loader.begin()
    total, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < job.seconds:
        example = next(loader.batches)[0]
        total += len(example)
    if example.is_cuda:
        elapsed = _wait_for_gpu(begin)
    result = {
        "images_per_second": total / elapsed,
        "images": total,
        "delivers": f"{example.dtype}".removeprefix("torch."),
        "import_seconds": import_seconds,
        "first_batch_seconds": first - import_seconds,
    }
    if loader.stages is not None:
        result["stages"] = loader.stages(example)
    loader.close()
    return result


def _wait_for_gpu(begin: float) -> float:
    """Seconds since `begin`, once all that was asked of the GPU is done."""
    import torch

    torch.cuda.synchronize()
    return time.perf_counter() - begin


def check_batch(images: "Tensor", labels: "Tensor", job: Job, stored: list[int]) -> None:
    """Refuse what is no whole batch of shuffled colour images; `stored`: labels in the order in which they are stored.

    Raises:
        ValueError: with what was expected and what was found.
    """
    shapes = ((job.batch_size, 3, job.size, job.size), (job.batch_size, job.size, job.size, 3))
    if tuple(images.shape) not in shapes or len(labels) != job.batch_size:
        raise ValueError(
            f"{job.contender}: batch of {tuple(images.shape)} with {len(labels)} labels, expected {shapes}"
        )
    colours = images[:8].float().movedim(images.shape.index(3, 1), 0).flatten(1)
    if (colours[0] - colours[2]).abs().mean() <= colours.std() / 100:
        raise ValueError(f"{job.contender}: grey images, expected colours")
    found = labels.tolist()
    # Windows over the labels: each start leaves one label less.
    runs = set(zip(*(stored[start:] for start in range(_RUN)), strict=False))
    as_stored = sum(run in runs for run in zip(*(found[start:] for start in range(_RUN)), strict=False))
    if as_stored > job.batch_size / 4 or len(set(found)) < min(8, len(set(stored))):
        raise ValueError(
            f"{job.contender}: {as_stored} of {len(found)} labels follow each other as stored: not shuffled"
        )


if __name__ == "__main__":
    main()
