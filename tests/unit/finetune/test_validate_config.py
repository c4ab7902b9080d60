"""Options that do not go together are refused before anything is read."""

import re
from typing import Any

import pytest

from finetune.validate_config import ValidateConfig

PLACES = {"model": "M", "data": "D", "out": "O"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--model is missing; expected --model MODEL --data DATASET --out FOLDER, or --compare A B"),
        ({"model": "M", "data": "D"}, "--out is missing; expected"),
        ({"compare": ("A", "B"), "data": "D"}, "--compare looks at predictions that were written before; leave --data"),
        ({"compare": ("A",)}, "--compare expects two or more folders or files, got A"),
        ({**PLACES, "draws": 10}, "--draws expects at least 100, got 10"),
        ({**PLACES, "batch_size": 0}, "--batch-size expects a positive number, got 0"),
        ({**PLACES, "seed": -1}, "--seed expects zero or more, got -1"),
        ({**PLACES, "workers": -1}, "--workers expects zero or more, got -1"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        ValidateConfig(**options)


def test_both_uses():
    assert ValidateConfig(**PLACES).split == "test"
    assert ValidateConfig(compare=("A", "B")).out is None
