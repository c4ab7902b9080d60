"""Which of a run's evaluations was the best, and when there have been enough without a better one.

Both are functions of the evaluated lines of metrics.jsonl alone, so that a run which is killed, or goes back, comes to
the same.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

EVALUATED = "evaluation_seconds"
"""What the lines of metrics.jsonl that come from an evaluation have, and others have not."""


@dataclass(frozen=True)
class Standing:
    """What evaluations have come to. `records`: the steps of those that beat all before them, ascending."""

    records: tuple[int, ...] = ()
    best: float | None = None
    waited: int = 0
    """Evaluations since the last record."""


@dataclass(frozen=True)
class Selection:
    """What makes one evaluation better than another.

    Raises:
        ValueError: a patience of less than one evaluation.
    """

    metric: str
    """Of those that the evaluation gives."""
    higher_is_better: bool = True
    patience: int | None = None
    """Training ends after so many evaluations in a row without a new best; None goes on to the end."""

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"a patience of {self.patience} evaluations: expected at least 1, or none")

    def after(self, standing: Standing, step: int, results: Mapping[str, Any]) -> Standing:
        """The standing after one more evaluation. Of equal ones the earlier stays; what is not finite is never best.

        Raises:
            ValueError: the evaluation does not give the metric.
        """
        if self.metric not in results:
            given = ", ".join(name for name in results if name not in ("step", "epoch", EVALUATED))
            raise ValueError(
                f"the best checkpoint is chosen by {self.metric}, which the evaluation of step {step:,} does not give; "
                f"choose it by one of {given}, in a new run"
            )
        value = results[self.metric]
        if value is None or not math.isfinite(value):  # metrics.jsonl has null for what is not finite
            is_better = False
        elif standing.best is None:
            is_better = True
        else:
            is_better = value > standing.best if self.higher_is_better else value < standing.best
        if not is_better:
            return Standing(standing.records, standing.best, standing.waited + 1)
        return Standing((*standing.records, step), value)

    def judge(self, lines: Iterable[Mapping[str, Any]]) -> Standing:
        """The standing after the evaluated ones of these lines of metrics.jsonl. Raises ValueError as `after` does."""
        standing = Standing()
        for line in lines:
            if EVALUATED in line:
                standing = self.after(standing, line["step"], line)
        return standing

    def why_over(self, standing: Standing) -> str | None:
        """Why training is to end here, None where it is not."""
        if self.patience is None or standing.waited < self.patience:
            return None
        which = "the last evaluation" if standing.waited == 1 else f"the last {standing.waited} evaluations"
        if standing.best is None:
            return f"{which} gave no finite {self.metric}"
        return f"{which} did not beat {self.metric} {standing.best:.6g} of step {standing.records[-1]:,}"
