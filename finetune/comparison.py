"""Pre-training against none: the same classifier trained from both, at several numbers of labels and seeds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from data_pipeline.manifest import DatasetError, Manifest
from data_pipeline.subset import labelled_samples
from data_pipeline.task_pool import Report, TaskPool
from finetune.benchmark_config import BenchmarkConfig
from finetune.classification import classify
from finetune.classify_config import ClassifyConfig
from finetune.pixel_neighbours import pixel_neighbour_accuracy
from finetune.recipes import RECIPES
from launch.console import Console
from launch.lock import FolderInUseError, LockLostError
from pretrain.model_source import ModelSource
from pretrain.supervised_config import SCRATCH
from pretrain.world import World

Say = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """One training run, for a worker process; `top1` comes back, None where the loss was not finite any more."""

    recipe: str
    config: ClassifyConfig
    threads: int

    def run(self, report: Report) -> tuple[str, float | None]:
        """Train, or take up what an earlier start has left. Raises ValueError for what a user can mend."""
        torch.set_num_threads(self.threads)
        try:
            with open(f"{self.config.out}.log", "a") as log, World(self.config.precision) as world:
                result = classify(self.recipe, self.config, world, Console(stream=log))
        except FloatingPointError:
            return self.name, None
        except (DatasetError, FolderInUseError, LockLostError) as error:
            raise ValueError(str(error)) from error
        report(1)
        return self.name, result.get("top1")

    @property
    def name(self) -> str:
        """The run folder's name."""
        return Path(self.config.out).name

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Comparison:
    """All trials of a benchmark, and what is made of their results."""

    config: BenchmarkConfig
    source: ModelSource
    manifest: Manifest
    at_a_time: int

    def rows(self, say: Say) -> Iterator[dict[str, Any]]:
        """One for each number of labels, in order, as in benchmark.json; says each result as it comes.

        Raises:
            ValueError: as a trial met it, or if nothing from scratch was trained to the end.
        """
        with TaskPool(self.at_a_time) as pool:
            yield from self._rows(pool, say)

    def _rows(self, pool: TaskPool, say: Say) -> Iterator[dict[str, Any]]:
        config, budgets = self.config, (*self.config.labels, None)
        seeds = {labels: range(config.seeds if labels is not None else 1) for labels in budgets}
        first = [self._scratch(labels, 0, lr) for labels in budgets for lr in config.scratch_lrs]
        pretrained = [self._pretrained(labels, seed) for labels in budgets for seed in seeds[labels]]
        top1 = _train(pool, [*first, *pretrained], say)
        best = {labels: self._best_rate(labels, top1) for labels in budgets}
        more = [self._scratch(labels, seed, best[labels]) for labels in budgets for seed in seeds[labels][1:]]
        top1 |= _train(pool, more, say)
        for labels in budgets:
            scratch = [self._scratch(labels, seed, best[labels]) for seed in seeds[labels]]
            tuned = [self._pretrained(labels, seed) for seed in seeds[labels]]
            yield {
                "labels": labels,
                "images": self._images(labels),
                "seeds": list(seeds[labels]),
                "pixels_1nn": [self._pixels(labels, seed) for seed in seeds[labels]],
                "scratch": {
                    "base_lr": best[labels],
                    "steps": config.scratch_steps,
                    "epochs": scratch[0].config.epochs,
                    "top1": [top1[trial.name] for trial in scratch],
                    "tried": {f"{lr:g}": top1[self._scratch(labels, 0, lr).name] for lr in config.scratch_lrs},
                },
                "pretrained": {
                    "base_lr": config.pretrained_lr,
                    "steps": config.pretrained_steps,
                    "epochs": tuned[0].config.epochs,
                    "top1": [top1[trial.name] for trial in tuned],
                },
            }

    def _best_rate(self, labels: int | None, top1: dict[str, float | None]) -> float:
        reached = {lr: top1[self._scratch(labels, 0, lr).name] for lr in self.config.scratch_lrs}
        finite = {lr: value for lr, value in reached.items() if value is not None}
        if not finite:
            raise ValueError("--scratch-lrs: the loss became infinite with each of them; give smaller ones")
        return max(finite, key=finite.__getitem__)

    def _scratch(self, labels: int | None, seed: int, lr: float) -> Trial:
        recipe = RECIPES[self.config.recipe].config
        recipe = replace(recipe, encoder=self.source.backbone, init=SCRATCH, layer_decay=None)
        return self._trial(f"scratch-{_label(labels)}-lr{lr:g}", recipe, labels, seed, (lr, self.config.scratch_steps))

    def _pretrained(self, labels: int | None, seed: int) -> Trial:
        config = self.config
        recipe = replace(RECIPES[config.recipe].config, init=config.init)
        how = (config.pretrained_lr, config.pretrained_steps)
        return self._trial(f"pretrained-{_label(labels)}", recipe, labels, seed, how)

    def _trial(self, name: str, recipe: ClassifyConfig, labels: int | None, seed: int, how: tuple[float, int]) -> Trial:
        lr, steps = how
        epochs = steps * recipe.batch_size / self._images(labels)
        config = replace(
            recipe,
            data=self.config.data,
            out=str(Path(self.config.out) / f"{name}-seed{seed}"),
            labels=labels,
            seed=seed,
            epochs=epochs,
            optimizer=replace(recipe.optimizer, base_lr=lr, warmup_epochs=epochs / 10),
            workers=0,  # the trials are worker processes themselves
        )
        return Trial(self.config.recipe, config, max(1, torch.get_num_threads() // self.at_a_time))

    def _images(self, labels: int | None) -> int:
        config = RECIPES[self.config.recipe].config
        members, _ = labelled_samples(self.manifest, config.split, labels, seed=0)
        return self.manifest.split(config.split).present if members is None else len(members)

    def _pixels(self, labels: int | None, seed: int) -> float | None:
        config = RECIPES[self.config.recipe].config
        members, _ = labelled_samples(self.manifest, config.split, labels, seed)
        return pixel_neighbour_accuracy(
            self.manifest, config.split, members, config.held_out, self.source.backbone.size
        )


def _train(pool: TaskPool, trials: Sequence[Trial], say: Say) -> dict[str, float | None]:
    results: dict[str, float | None] = {}
    for name, top1 in pool.run(trials, report=lambda _: None):
        results[name] = top1
        say(f"{name}: {'its loss is not finite any more' if top1 is None else f'{top1:.1%}'}")
    return results


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown: top-1 in percent, with the sample standard deviation over seeds."""
    lines = [
        "| labels a class | images | 1-NN on pixels | from scratch | pre-trained | gain |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        scratch, tuned = row["scratch"]["top1"], row["pretrained"]["top1"]
        gain = f"{100 * (mean(tuned) - mean(scratch)):+.1f}"
        cells = [_label(row["labels"]), f"{row['images']:,}", *map(_spread, (row["pixels_1nn"], scratch, tuned)), gain]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float | None]) -> str:
    if None in values:
        return "-"
    shares = [100 * value for value in values if value is not None]
    return f"{mean(shares):.1f}" + (f" ± {stdev(shares):.1f}" if len(shares) > 1 else "")


def _label(labels: int | None) -> str:
    return "all" if labels is None else str(labels)
