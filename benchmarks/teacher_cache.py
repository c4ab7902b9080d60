"""What a teacher's cache saves, costs and changes: images/s of distillation with and without, time, bytes, losses.

python benchmarks/teacher_cache.py --out benchmarks/teacher_cache.json

python benchmarks/teacher_cache.py --data DATASET --teacher MODEL --recipe deit-ti4-cifar10 --kept 3 --epochs 2

Runs of pretrain/distill.py that differ in nothing but the cache: none, one of all logits, one of the largest alone.
Each view is shown once, nothing is mixed or erased, so that all see the same pixels and their losses can be compared.
What counts are medians of ratios within a round; a cache is filled in the first and used in all. Without --data and
--teacher: scikit-learn's digits and a small CNN, which are made on first use, and kept.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from launch.settings import parse_options

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sherd/benchmarks"
_DISTRIBUTIONS = ("sherd", "torch", "torchvision", "timm", "numpy", "pillow", "simplejpeg")


@dataclass(frozen=True)
class Options:
    """What is measured."""

    data: str = ""
    """Dataset folder; digits if empty."""
    teacher: str = ""
    """As pretrain/distill.py takes it; with digits a small CNN if empty."""
    recipe: str = "digits-distill"
    """Of pretrain/distill.py."""
    kind: Literal["hard", "soft"] = "soft"
    """Of distillation: the hard kind sees no more of a teacher than its first class."""
    kept: int = 3
    """The most probable classes that the smaller cache keeps."""
    epochs: int = 3
    """Of each run; a cache holds so many views of each image."""
    rounds: int = 2
    """In each every contender runs, every other time in reverse."""
    seed: int = 0
    """Of the runs."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of student and teacher."""
    workers: int = 1
    """Processes that decode."""
    threads: int = 1
    """On a CPU; the digits' student is so small that a second one waits more than it works."""
    work: str = str(_CACHE)
    """Folder for the digits and their teacher, which are kept, and for the runs, which are not."""
    out: str = ""
    """JSON file for the results; none if empty."""

    def __post_init__(self) -> None:
        for name, least in (("kept", 1), ("epochs", 1), ("rounds", 1), ("seed", 0), ("workers", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected at least {least}")
        if self.data and not self.teacher:
            raise ValueError(f"--data {self.data}: expected --teacher as well, a classifier of its classes")


def main(options: Options) -> None:
    """Measure, print the table, write the JSON."""
    from command import CommandError
    from machine import describe_machine, machine_line
    from teacher_cache_runs import CONTENDERS, Setting, digits, measure
    from teacher_cache_tables import summary, table

    from launch.atomic import write_json
    from launch.console import Console

    console = Console()
    described = describe_machine(_DISTRIBUTIONS)  # before the work of this benchmark is part of the load
    console.say(machine_line(described))
    try:
        data, teacher = options.data, options.teacher
        if not data:
            data, own = digits(Path(options.work), options.threads, console.say)
            teacher = teacher or own
        setting = Setting(
            data,
            teacher,
            options.recipe,
            options.kind,
            kept=options.kept,
            epochs=options.epochs,
            seed=options.seed,
            precision=options.precision,
            workers=options.workers,
            threads=options.threads,
        )
        with console.progress(options.rounds * len(CONTENDERS), unit="runs", label="distillation") as progress:
            rounds = measure(setting, options.rounds, Path(options.work), lambda name: progress.advance(last=name))
    except CommandError as error:
        raise SystemExit(f"teacher_cache.py: {error}") from None
    console.say(f"\n{table(setting, rounds)}")
    if options.out:
        content = {**described, "options": asdict(options), "summary": summary(rounds), "rounds": rounds}
        write_json(Path(options.out), content)


if __name__ == "__main__":
    assert __doc__ is not None
    main(parse_options(__doc__, Options))
