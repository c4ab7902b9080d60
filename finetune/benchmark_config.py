"""What a benchmark compares, as one frozen dataclass that imports nothing heavy, and the benchmarks there are."""

import os
from dataclasses import dataclass, replace
from typing import Any

from finetune.recipes import RECIPES
from launch.settings import REQUIRED, Recipe


@dataclass(frozen=True)
class BenchmarkConfig:
    """A pre-trained encoder against training from scratch, by the number of labels.

    Raises:
        ValueError: a number outside its range, or no recipe of that name.
    """

    recipe: str
    """Of finetune/classify.py, for both: the encoder from scratch has the pre-trained one's sizes."""
    pretrained_steps: int
    """Optimizer steps of fine-tuning."""
    pretrained_lr: float
    """Base learning rate of fine-tuning."""
    scratch_steps: int
    """Optimizer steps from scratch: more than fine-tuning has, so many that more change little."""
    scratch_lrs: tuple[float, ...]
    """Base learning rates tried from scratch with the first seed, at each number of labels; the best is taken, as the
    held-out split itself says, which favours scratch."""
    data: str = REQUIRED
    """Dataset folder that data_pipeline/shard.py wrote, with labels."""
    init: str = REQUIRED
    """Run folder of pretrain/mae.py, or a model folder: ours, timm's or Transformers', also hf://user/name."""
    out: str = REQUIRED
    """Folder for the runs and the table; the same command continues what it holds."""
    labels: tuple[int, ...] = (10, 50)
    """Images of each class to train on; all are always the last row."""
    seeds: int = 3
    """Runs at each number of labels, with seeds 0, 1, ...: other images, another order. One on all labels."""
    processes: int = 0
    """Runs at a time; 0: one for each core, or one on a machine with a GPU."""

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise ValueError(f"--recipe {self.recipe}: no such recipe of finetune/classify.py: {', '.join(RECIPES)}")
        for option in ("pretrained_steps", "pretrained_lr", "scratch_steps", "seeds"):
            self._check(option, getattr(self, option) > 0, "a positive number")
        self._check("scratch_lrs", bool(self.scratch_lrs) and min(self.scratch_lrs) > 0, "positive numbers")
        self._check("labels", min(self.labels, default=1) > 0, "positive numbers of images a class")
        self._check("processes", self.processes >= 0, "zero or more")

    def _check(self, option: str, fits: bool, expected: str) -> None:
        if not fits:
            value: Any = getattr(self, option)
            raise ValueError(f"--{option.replace('_', '-')} expects {expected}, got {value}")

    def at_a_time(self, has_gpu: bool) -> int:
        """How many runs to have at a time."""
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.processes or (1 if has_gpu else usable)


_DIGITS = BenchmarkConfig(
    "digits", pretrained_steps=300, pretrained_lr=1.6e-2, scratch_steps=1000, scratch_lrs=(8e-3, 1.6e-2, 3.2e-2)
)

BENCHMARKS: dict[str, Recipe[BenchmarkConfig]] = {
    # python pretrain/mae.py digits --data D --out R; python finetune/benchmark.py digits --data D --init R --out B; one
    # thread; seeds 0, 1, 2; 2026-11-25, 2 AMD EPYC cores. The best rate from scratch was 1.6e-2 at 10 and 50 labels; at
    # all it was one image behind 8e-3. Twice the steps from scratch (--scratch-steps 2000 --scratch-lrs 0.016, then
    # with a drop path of .1) made 85.9 +- 3.6, 93.6 +- 1.0 and 96.1.
    "digits": Recipe(
        _DIGITS,
        "measured, pre-trained and from scratch: 91.3 +- 1.1, 84.3 +- 4.3 at 10 labels; 95.8 +- .7, 93.0 +- .7 at 50; "
        "96.7, 95.8 at all; minutes",
    ),
    # From scratch at the rate that the search of `digits` has found, so that it fits into a demo's minutes.
    "digits-demo": Recipe(
        replace(_DIGITS, scratch_lrs=(1.6e-2,)), "measured: as digits, but 95.6 from scratch at all labels; two minutes"
    ),
}
