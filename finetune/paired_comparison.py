"""Which of several classifiers is better, judged on the images that all of them were evaluated on."""

from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.text_table import text_table
from finetune.paired_tests import McNemar, difference_interval, holm, mcnemar
from finetune.validate_config import ValidateConfig
from finetune.written_folder import WrittenFolder
from launch.atomic import write_json
from launch.console import Console
from pretrain.intervals import Bootstrap, Interval
from pretrain.prediction_file import PredictionFile, read_predictions

COMPARISON = "comparison.json"
_FORMAT = "sherd-comparison"
_OPTION = "--compare"


@dataclass(frozen=True)
class Pair:
    """Two classifiers on the same images. difference: the second's top-1 minus the first's. p: of McNemar's test; of
    several pairs corrected by Holm's method.
    """

    first: str
    second: str
    difference: float
    interval: Interval
    test: McNemar
    p: float
    level: float

    @property
    def conclusion(self) -> str:
        """What follows, in a sentence, and no more: of other training runs nothing does."""
        low, high = (100 * end for end in self.interval)
        if self.test.b == self.test.c == 0:
            return f"{self.first} and {self.second} are right of the very same images."
        is_unlikely, is_clear = self.p < 1 - self.level, low > 0 or high < 0
        if is_unlikely and is_clear:
            better, worse = (self.second, self.first) if low > 0 else (self.first, self.second)
            least, most = sorted((abs(low), abs(high)))
            by = f"{least:.2f} to {most:.2f} points ({100 * self.level:g} % interval)"
            return (
                f"On images like these the weights of {better} are right more often than those of {worse}, by {by}; "
                "what other training runs would give, this does not tell."
            )
        if is_unlikely == is_clear:
            return (
                f"These images do not tell which of {self.first} and {self.second} is right more often: the difference "
                f"may lie anywhere between {low:+.2f} and {high:+.2f} points."
            )
        return (
            f"Between {self.first} and {self.second} it is close: the interval of the difference "
            f"{'leaves out' if is_clear else 'contains'} 0, but p is {_p(self.p)}; more images would tell."
        )

    def to_json(self) -> dict[str, Any]:
        """What comparison.json holds of it."""
        test = self.test
        return {
            "first": self.first,
            "second": self.second,
            "difference": self.difference,
            "interval": list(self.interval),
            "only_first_right": test.b,
            "only_second_right": test.c,
            "test": f"McNemar, {'exact binomial' if test.exact else 'chi-squared with continuity correction'}",
            "statistic": test.statistic,
            "p": test.p,
            "p_holm": self.p,
            "conclusion": self.conclusion,
        }


def compare(config: ValidateConfig, console: Console) -> dict[str, Any]:
    """Compare the predictions that the config names; returns what comparison.json holds. Only rank 0 does anything.

    Raises:
        ValueError: predictions are absent or damaged, or of other images; or the folder is not its own.
    """
    if console.rank > 0:
        return {}
    out = None if config.out is None else WrittenFolder(Path(config.out), frozenset({COMPARISON}), COMPARISON, _FORMAT)
    if out is not None:
        out.check()
    files = _common([read_predictions(where, _OPTION) for where in config.compare], console)
    bootstrap = Bootstrap(config.draws, config.seed)
    pairs = _pairs(files, bootstrap)
    images = len(files[0].predictions)
    result = {
        "format": _FORMAT,
        "version": 1,
        "split": files[0].origin.split,
        "fingerprint": files[0].origin.fingerprint,
        "images": images,
        "models": [
            {
                "name": file.name,
                "model_sha256": file.origin.model_sha256,
                "top1": float(file.predictions.right.mean()),
            }
            for file in files
        ],
        "bootstrap": bootstrap.to_json({}),
        "pairs": [pair.to_json() for pair in pairs],
    }
    console.say(_tables(files, pairs))
    for pair in pairs:
        console.say(pair.conclusion)
    if out is not None:
        with out.replaced() as folder:
            write_json(folder / COMPARISON, result)
        console.say(f"done: {config.out} holds {COMPARISON}")
    return result


def _common(files: list[PredictionFile], console: Console) -> list[PredictionFile]:
    """The predictions of the images that all files have.

    Raises:
        ValueError: of another split or dataset, of no common image, or with other labels.
    """
    first = files[0]
    for file in files[1:]:
        if file.origin.fingerprint != first.origin.fingerprint:
            places = [f"{one.name} is of [{one.origin.split}] {one.origin.fingerprint[:12]}" for one in (first, file)]
            raise ValueError(
                f"{_OPTION}: expected predictions of the same images, but by the splits' fingerprints {places[0]} and "
                f"{places[1]}; evaluate both with finetune/validate.py on the same --data and --split"
            )
    samples = first.predictions.samples
    for file in files[1:]:
        samples = np.intersect1d(samples, file.predictions.samples, assume_unique=True)
    counts = [len(file.predictions) for file in files]
    if len(samples) == 0:
        raise ValueError(
            f"{_OPTION}: no image of [{first.origin.split}] is in all of {', '.join(_names(files))}; evaluate "
            "them on the same samples"
        )
    if max(counts) > len(samples):
        has = ", ".join(f"{file.name} has {count:,}" for file, count in zip(files, counts, strict=True))
        console.say(f"compared on the {len(samples):,} images that all have: {has}")
    shared = [_rows_of(file, samples) for file in files]
    for file in shared[1:]:
        if not _same_labels(shared[0], file):
            raise ValueError(
                f"{_OPTION}: {first.name} and {file.name} hold other labels for the same images; evaluate both with "
                "the same --classes"
            )
    return shared


def _names(files: list[PredictionFile]) -> list[str]:
    """How the user called the files."""
    return [file.name for file in files]


def _rows_of(file: PredictionFile, samples: np.ndarray) -> PredictionFile:
    rows = np.searchsorted(file.predictions.samples, samples)
    return replace(file, predictions=file.predictions.rows(rows))


def _same_labels(first: PredictionFile, second: PredictionFile) -> bool:
    """Whether the same images belong together: models may number and name the same classes in their own ways."""
    labels = np.stack([first.predictions.labels, second.predictions.labels])
    counts = {len(np.unique(labels[0])), len(np.unique(labels[1])), np.unique(labels, axis=1).shape[1]}
    return len(counts) == 1


def _pairs(files: list[PredictionFile], bootstrap: Bootstrap) -> list[Pair]:
    chosen = list(combinations(files, 2))
    rights = [(one.predictions.right, other.predictions.right) for one, other in chosen]
    tests = [mcnemar(*right) for right in rights]
    corrected = holm([test.p for test in tests])
    return [
        Pair(
            one.name,
            other.name,
            difference=float(right[1].mean() - right[0].mean()),
            interval=difference_interval(*right, bootstrap),
            test=test,
            p=p,
            level=bootstrap.level,
        )
        for (one, other), right, test, p in zip(chosen, rights, tests, corrected, strict=True)
    ]


def _tables(files: list[PredictionFile], pairs: list[Pair]) -> str:
    models = [(file.name, f"{file.predictions.right.mean():.2%}") for file in files]
    rows = [
        (
            f"{pair.second} minus {pair.first}",
            f"{100 * pair.difference:+.2f}",
            " to ".join(f"{100 * end:+.2f}" for end in pair.interval),
            f"{pair.test.b:,} / {pair.test.c:,}",
            _p(pair.p),
        )
        for pair in pairs
    ]
    corrected = " (Holm)" if len(pairs) > 1 else ""
    head = ("difference in top-1", "points", f"{100 * pairs[0].level:g} % interval", "only first / second right", "")
    head = (*head[:-1], f"McNemar's p{corrected}")
    heading = f"{len(files[0].predictions):,} images of [{files[0].origin.split}], each predicted by all"
    return f"{heading}\n\n{text_table(('', 'top-1'), models)}\n\n{text_table(head, rows)}\n"


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"
