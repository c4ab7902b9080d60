"""A distillation is refused where a number lies outside its range or would do nothing."""

from typing import Any

import pytest

from launch.strict_json import from_json, to_json
from pretrain.distillation_config import DistillationConfig


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.5}, r"--distillation\.alpha expects a share above 0, at most 1, got 1\.5$"),
        ({"alpha": 0.0}, r"got 0; to learn from labels alone pass --distillation\.kind none$"),
        ({"alpha": float("nan")}, r"--distillation\.alpha expects a share above 0, at most 1, got nan"),
        ({"kind": "soft", "temperature": 0.0}, r"--distillation\.temperature expects a positive number, got 0"),
        (
            {"kind": "soft", "temperature": float("inf")},
            r"--distillation\.temperature expects a positive number, got inf",
        ),
        ({"temperature": 3.0}, r"--distillation\.temperature 3 expects --distillation\.kind soft, got hard"),
        (
            {"kind": "none", "temperature": 3.0},
            r"--distillation\.temperature 3 expects --distillation\.kind soft, got none",
        ),
        (
            {"kind": "none", "alpha": 0.1},
            r"--distillation\.alpha 0\.1 expects --distillation\.kind hard or soft, got none",
        ),
    ],
)
def test_what_does_not_fit_or_does_nothing_is_refused_by_option(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        DistillationConfig(**change)


def test_what_does_something_is_accepted():
    for config in (DistillationConfig("soft", 0.1, 3.0), DistillationConfig("hard", 1.0), DistillationConfig("none")):
        assert from_json(DistillationConfig, to_json(config), "config.json") == config
    assert [DistillationConfig(kind).is_on for kind in ("hard", "soft", "none")] == [True, True, False]
    assert DistillationConfig() == DistillationConfig("hard", 0.5, 1.0)
