"""What a few labelled images a class are enough for: logistic regression, over several draws of the images."""

import statistics
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from data_pipeline.order import Integers
from data_pipeline.randomness import Purpose, hash_array, key
from finetune.extraction import Features
from finetune.feature_probe_config import FewShotConfig
from launch.console import Console


def probe_few_shot(
    train: Features,
    held_out: Features,
    config: FewShotConfig,
    console: Console,
    *,
    classes: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Shares of the held-out images that a regression on so many images of each class names rightly.

    A number of images that some class does not have is left out, and said to be: an average over draws in which that
    class is always whole would be called by a number that it is not. Classes without training images are not counted.
    What probe.json says of it; `deviation` is that of the draws as a sample, None of a single one.

    Raises:
        ValueError: training images of a single class, or no number that all classes have.
    """
    values, labels = _on_sphere(train), train.labels.numpy()
    present, counts = np.unique(labels, return_counts=True)
    if len(present) < 2:
        raise ValueError(f"few-shot: training images of {len(present)} classes, expected two; give a larger --split")
    fewest = int(counts.argmin())
    told = f"class {classes[present[fewest]]!r} has {counts[fewest]:,} training images"
    shots = [count for count in sorted(set(config.shots)) if count <= counts[fewest]]
    if not shots:
        asked = " ".join(map(str, config.shots))
        raise ValueError(
            f"few-shot: {told}, fewer than each of --few-shot.shots {asked}; give smaller ones, or none: "
            "--few-shot.shots"
        )
    left_out = [str(count) for count in sorted(set(config.shots)) if count > counts[fewest]]
    if left_out:
        console.say(f"few-shot: without {', '.join(left_out)} a class, for {told}")
    rows, asked, expected = [], _on_sphere(held_out), held_out.labels.numpy()
    with console.progress(len(shots) * config.draws, unit="fits", label="few-shot") as progress:
        for count in shots:
            top1, converged = [], True
            for draw in range(config.draws):
                chosen = draw_few(labels, count, seed=seed, draw=draw)
                model, is_done = _fit(values[chosen], labels[chosen], config)
                top1.append(float(np.mean(model.predict(asked) == expected)))
                converged &= is_done
                progress.advance()
            deviation = statistics.stdev(top1) if len(top1) > 1 else None
            row = {"shots": count, "train_images": count * len(present), "top1": top1, "mean": statistics.fmean(top1)}
            rows.append({**row, "deviation": deviation, "converged": converged})
    console.say(f"few-shot by images a class: {', '.join(map(_told, rows))} % ({config.draws} draws)")
    if not all(row["converged"] for row in rows):
        console.say(f"few-shot: not converged in {config.iterations} iterations: raise --few-shot.iterations")
    return {
        "method": "logistic regression",
        "C": config.strength,
        "draws": config.draws,
        "classes": len(present),
        "held_out_images": len(expected),
        "results": rows,
    }


def draw_few(labels: Integers, count: int, *, seed: int, draw: int) -> Integers:
    """Sorted numbers of `count` samples of each class, by hash of seed, draw and sample; fewer are among more."""
    luck = hash_array(key(seed, Purpose.SUBSET, draw), np.arange(len(labels), dtype=np.uint64))
    by_class = np.lexsort((luck, labels))
    ordered = labels[by_class]
    rank = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return np.sort(by_class[rank < count])


def _on_sphere(features: Features) -> NDArray[np.float64]:
    """Each image's features less their mean, of length 1."""
    values = features.values.double()
    centred = values - values.mean(dim=1, keepdim=True)
    lengths = centred.norm(dim=1, keepdim=True)
    return (centred / lengths.where(lengths > 0, 1.0)).numpy()


def _fit(features: NDArray[np.float64], labels: Integers, config: FewShotConfig) -> tuple[LogisticRegression, bool]:
    """A fitted regression, and whether it converged."""
    model = LogisticRegression(C=config.strength, fit_intercept=False, max_iter=config.iterations)
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(features, labels)
    return model, not any(issubclass(warning.category, ConvergenceWarning) for warning in met)


def _told(row: dict[str, Any]) -> str:
    spread = "" if row["deviation"] is None else f" ± {100 * row['deviation']:.1f}"
    return f"{row['shots']} {100 * row['mean']:.1f}{spread}"
