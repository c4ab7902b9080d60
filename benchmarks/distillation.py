"""What a teacher is worth: a student that learns from a small CNN against the same student alone, by labels and seeds.

python benchmarks/distillation.py --out benchmarks/distillation.json

Of each number of labels and each seed two runs of pretrain/distill.py: the student alone, on the labelled images; and
with a teacher that the same command trains first, on the same ones (`--teacher own`), where all other images take part
with the teacher's judgement alone (`--unlabelled`). Both students are the same model, and take as many steps. Digits of
scikit-learn, top-1 on the last 360, which are of other writers.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from launch.settings import parse_options

_DISTRIBUTIONS = ("sherd", "torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn")


@dataclass(frozen=True)
class Options:
    """What is compared."""

    labels: tuple[int, ...] = (10, 20, 50)
    """Images of each class whose labels are used."""
    seeds: int = 3
    """Of everything: which images are labelled, the first weights, the order."""
    recipe: str = "digits-distill"
    """Of pretrain/distill.py; its epochs are those over all images."""
    processes: int = 2
    """Runs at a time, of one thread each."""
    work: str = "benchmark-distillation"
    """Folder for the digits and the runs, which are kept: the same command goes on with what is there."""
    out: str = ""
    """JSON file for the results; none if empty."""

    def __post_init__(self) -> None:
        if not self.labels or min(self.labels) < 1:
            raise ValueError(f"--labels expects positive numbers of images a class, got {self.labels}")
        for name in ("seeds", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected at least 1")


def main(options: Options) -> None:
    """Run what has not been run, print the table, write the JSON."""
    from command import CommandError
    from distillation_trials import STUDENTS, Trials, table
    from machine import describe_machine, machine_line

    from launch.atomic import write_json
    from launch.console import Console

    console = Console()
    described = describe_machine(_DISTRIBUTIONS)  # before the work of this benchmark is part of the load
    console.say(machine_line(described))
    try:
        trials = Trials(options.recipe, Path(options.work), options.processes)
        total = len(options.labels) * options.seeds * len(STUDENTS)
        with console.progress(total, unit="runs", label="distillation") as progress:
            rows = trials.rows(options.labels, options.seeds, lambda name: progress.advance(last=name))
    except CommandError as error:
        raise SystemExit(f"distillation.py: {error}") from None
    console.say(f"\n{table(rows)}")
    if options.out:
        write_json(Path(options.out), {**described, "options": asdict(options), "rows": rows})


if __name__ == "__main__":
    assert __doc__ is not None
    main(parse_options(__doc__, Options))
