"""What can be read off features: classes of the nearest neighbours, and those that a hyperplane separates."""

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from data_pipeline.order import Integers
from data_pipeline.randomness import Purpose, hash_array, key
from finetune.frozen_features import Features
from finetune.probe_config import LogisticConfig, LogisticProbeConfig
from launch.console import Console
from pretrain.health import knn_predict
from pretrain.mae_config import KnnConfig

_FIFTH = 5


def probe_features(
    train: Features, held_out: Features, config: LogisticProbeConfig, console: Console
) -> dict[str, Any]:
    """k-NN and logistic regression on features in memory: {"knn": ..., "linear": ...}, as in probe.json; says both.

    Raises:
        ValueError: too few training images or classes.
    """
    return {
        "knn": probe_neighbours(train, held_out, config.knn, console),
        "linear": probe_linearly(train, held_out, config.logistic, console, seed=config.seed),
    }


def probe_neighbours(train: Features, held_out: Features, config: KnnConfig, console: Console) -> dict[str, Any]:
    """Share of the held-out images that their nearest training images name rightly, and what that was measured with."""
    values, labels = (tensor[: config.most_train] for tensor in train)
    queries, expected = (tensor[: config.most_held_out] for tensor in held_out)
    predictions = knn_predict(values, labels, queries, neighbours=config.neighbours, temperature=config.temperature)
    top1 = (predictions == expected).double().mean().item()
    some = f", {len(labels):,} of {len(train.labels):,} training images" if len(labels) < len(train.labels) else ""
    console.say(f"k-NN {100 * top1:.1f} % (k = {config.neighbours}{some})")
    return {
        "neighbours": config.neighbours,
        "temperature": config.temperature,
        "train_images": len(labels),
        "held_out_images": len(expected),
        "top1": top1,
    }


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
