"""Which evaluation is the best, and when there have been enough: a function of the lines of metrics.jsonl."""

import math
from typing import Any

import pytest

from pretrain.selection import EVALUATED, Selection, Standing


def lines(*values: float | None) -> list[dict[str, Any]]:
    """Evaluations after steps 10, 20, ..., each after a line of training that looks better than any."""
    found: list[dict[str, Any]] = []
    for number, value in enumerate(values, start=1):
        found.append({"step": 10 * number, "loss": 1.0, "top1": 100.0})
        found.append({"step": 10 * number, "epoch": 0.1, "top1": value, "nll": 2.0, EVALUATED: 1.5})
    return found


@pytest.mark.parametrize(
    ("values", "is_higher", "records", "waited"),
    [
        ((), True, (), 0),
        ((0.1, 0.3, 0.2, 0.4), True, (10, 20, 40), 0),
        ((0.3, 0.3, 0.2), True, (10,), 2),
        ((0.3, 0.3, 0.2), False, (10, 30), 0),
        ((None, math.nan, 0.1, math.inf), True, (30,), 1),
        ((None, None), True, (), 2),
    ],
)
def test_what_evaluations_come_to(values: tuple[float | None, ...], is_higher: bool, records: Any, waited: int):
    standing = Selection("top1", is_higher).judge(lines(*values))
    assert standing.records == records
    assert standing.waited == waited
    assert standing.best == (values[records[-1] // 10 - 1] if records else None)


def test_one_at_a_time_comes_to_the_same():
    selection, standing = Selection("top1"), Standing()
    for line in lines(0.1, 0.3, None, 0.3, 0.5):
        if EVALUATED in line:
            standing = selection.after(standing, line["step"], line)
    assert standing == selection.judge(lines(0.1, 0.3, None, 0.3, 0.5)) == Standing((10, 20, 50), 0.5)


@pytest.mark.parametrize(
    ("values", "patience", "why"),
    [
        ((0.5, 0.4, 0.5), 2, "the last 2 evaluations did not beat top1 0.5 of step 10"),
        ((0.5, 0.4), 1, "the last evaluation did not beat top1 0.5 of step 10"),
        ((0.5, 0.4, 0.5), 3, None),
        ((0.5, 0.4, 0.6), 1, None),
        ((0.5, 0.4, 0.4, 0.4), None, None),
        ((None, None), 2, "the last 2 evaluations gave no finite top1"),
    ],
)
def test_when_there_have_been_enough(values: tuple[float | None, ...], patience: int | None, why: str | None):
    selection = Selection("top1", patience=patience)
    assert selection.why_over(selection.judge(lines(*values))) == why


def test_a_metric_that_is_not_there_and_a_patience_of_nothing():
    with pytest.raises(
        ValueError, match=r"chosen by top5, which the evaluation of step 10 does not give; .* top1, nll"
    ):
        Selection("top5").judge(lines(0.1))
    with pytest.raises(ValueError, match="a patience of 0 evaluations: expected at least 1, or none"):
        Selection("top1", patience=0)
