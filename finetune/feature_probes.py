"""Logistic regression on features in memory, its strength chosen by training images."""

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from data_pipeline.order import Integers
from data_pipeline.randomness import Purpose, hash_array, key
from finetune.extraction import Features
from finetune.feature_probe_config import LogisticConfig
from launch.console import Console

_FIFTH = 5


def probe_linearly(
    train: Features, held_out: Features, config: LogisticConfig, console: Console, *, seed: int
) -> dict[str, Any]:
    """Share of the held-out images that a logistic regression names rightly, and how it was found.

    Its strength is the one, of equals the smallest, that does best on a fifth of the training images when learnt from
    the others; then it learns from all of them. The held-out images choose nothing.

    Raises:
        ValueError: too few training images or classes.
    """
    features, labels = train.values.double().numpy(), train.labels.numpy()
    chosen = fifth(labels, seed)
    others = np.setdiff1d(np.arange(len(labels)), chosen)
    if len(chosen) == 0 or len(np.unique(labels[others])) < 2:
        raise ValueError(
            f"logistic regression: {len(labels)} training images of {len(np.unique(labels))} classes are too few, "
            "expected two classes without the fifth that chooses its strength; give a larger --split"
        )
    strengths = sorted(config.strengths)
    sweep = []
    with console.progress(len(strengths) + 1, unit="fits", label="logistic regression") as progress:
        for strength in strengths:
            model, _ = _fit(features[others], labels[others], strength, config.iterations)
            sweep.append({"C": strength, "top1": _share(model, features[chosen], labels[chosen])})
            progress.advance()
        best = max(sweep, key=lambda row: row["top1"])["C"]
        model, converged = _fit(features, labels, best, config.iterations)
        progress.advance()
    top1 = _share(model, held_out.values.double().numpy(), held_out.labels.numpy())
    doubt = "" if converged else f"; not converged in {config.iterations} iterations: raise --logistic.iterations"
    console.say(f"linear {100 * top1:.1f} % (logistic regression, C = {best:g}{doubt})")
    return {
        "method": "logistic regression",
        "C": best,
        "sweep": sweep,
        "converged": converged,
        "train_images": len(labels),
        "held_out_images": len(held_out.labels),
        "top1": top1,
    }


def fifth(labels: Integers, seed: int) -> Integers:
    """Sorted numbers of a fifth of the samples, of each class as large a part as can be."""
    luck = hash_array(key(seed, Purpose.SUBSET), np.arange(len(labels), dtype=np.uint64))
    by_class = np.lexsort((luck, labels))
    return np.sort(by_class[_FIFTH // 2 :: _FIFTH])


def _fit(features: np.ndarray, labels: np.ndarray, strength: float, iterations: int) -> tuple[Pipeline, bool]:
    """A fitted standardisation and regression, and whether the latter converged."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=iterations))
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(features, labels)
    return model, not any(issubclass(warning.category, ConvergenceWarning) for warning in met)


def _share(model: Pipeline, features: np.ndarray, labels: np.ndarray) -> float:
    return float((model.predict(features) == labels).mean())
