"""Students alone, and beside a teacher of the same labels that judges the images without one."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from command import run_script
from loader_tables import aligned

from data_pipeline.manifest import read_manifest
from pretrain.distill_recipes import RECIPES

STUDENTS = ("alone", "taught")
"""Trained on labelled images; on all of them, beside a teacher that was trained on the labelled ones."""


@dataclass(frozen=True)
class Trials:
    """Runs of a recipe of pretrain/distill.py, in a folder."""

    recipe: str
    work: Path
    processes: int

    def rows(self, labels: Sequence[int], seeds: int, report: Callable[[str], object]) -> list[dict[str, Any]]:
        """One for each number of labels: top-1 of teacher and students, by seed, as shares.

        Raises:
            CommandError: a run has failed.
        """
        data = self.work / "data"
        if not (data / "manifest.json").is_file():
            run_script(["data_pipeline/shard.py", "--source", "digits", "--out", str(data)], threads=1)
        with ThreadPoolExecutor(self.processes) as pool:
            done = [pool.submit(self._pair, number, seed, report) for number, seed in product(labels, range(seeds))]
            found = [each.result() for each in done]
        return [
            {
                "labels": number,
                "seeds": list(range(seeds)),
                **{
                    name: [
                        top1[name]
                        for top1, of in zip(found, product(labels, range(seeds)), strict=True)
                        if of[0] == number
                    ]
                    for name in ("teacher", *STUDENTS)
                },
            }
            for number in labels
        ]

    def _pair(self, labels: int, seed: int, report: Callable[[str], object]) -> dict[str, float]:
        """Top-1 of each, for one number of labels and one seed."""
        config = RECIPES[self.recipe].config
        split = read_manifest(self.work / "data").split(config.split)
        chosen = labels * sum(count > 0 for count in split.class_counts)
        more = split.present / chosen  # so many times the epochs are as many steps on the labelled images alone
        longer = ["--epochs", str(config.epochs * more)]
        longer += ["--optimizer.warmup-epochs", str(config.optimizer.warmup_epochs * more)]
        own = config.own_teacher
        assert own.epochs is not None
        its = ["--own-teacher.epochs", str(own.epochs * more)]
        its += ["--own-teacher.optimizer.warmup-epochs", str(own.optimizer.warmup_epochs * more)]
        found: dict[str, float] = {}
        runs = {name: self.work / f"{name}-{labels}-seed{seed}" for name in STUDENTS}
        teacher = runs["taught"] / "teacher"
        for name, words in {
            "alone": [*longer, "--teacher", "none", "--distillation.kind", "none"],
            "taught": ["--teacher", "own", "--unlabelled", *its],
        }.items():
            script = ["pretrain/distill.py", self.recipe, "--data", str(self.work / "data"), "--out", str(runs[name])]
            run_script([*script, "--labels", str(labels), "--seed", str(seed), *words], threads=1)
            found[name] = _top1(runs[name])
            report(f"{runs[name].name} {found[name]:.1%}")
        return {"teacher": _top1(teacher), **found}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """For people: top-1 in percent, mean and sample deviation over seeds, and what the teacher adds, seed by seed."""
    heading = ["labels a class", "teacher", "student alone", "student taught", "gain"]
    lines = []
    for row in rows:
        gains = [taught - alone for taught, alone in zip(row["taught"], row["alone"], strict=True)]
        cells = [_spread(row[name]) for name in ("teacher", *STUDENTS)]
        lines.append([str(row["labels"]), *cells, _spread(gains)])
    return aligned(heading, lines)


def _top1(run: Path) -> float:
    return json.loads((run / "evaluation.json").read_text())["top1"]


def _spread(shares: Sequence[float]) -> str:
    values = [100 * share for share in shares]
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
