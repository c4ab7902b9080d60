import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from launch.settings import REQUIRED
from launch.strict_json import ABSENT, closest, differences, fields_at_default, from_json, read_json, to_json


@dataclass(frozen=True)
class OptimizerConfig:
    lr: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be above 0, got {self.lr}")


@dataclass(frozen=True)
class AverageConfig:
    decay: float


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    data: str
    epochs: int = 300
    image_size: tuple[int, int] = (224, 224)
    layers: tuple[int, ...] = ()
    amp: bool = True
    limit: int | None = None
    share: float | int = 1
    schedule: Literal["cosine", "constant"] = "cosine"
    mixture: dict[str, int] = field(default_factory=dict)
    optimizer: OptimizerConfig = OptimizerConfig()
    average: AverageConfig | None = None
    cache: Path = Path("cache")


FULL = RunConfig(
    data="d",
    layers=(3, 6),
    limit=5,
    share=0.5,
    mixture={"places": 2},
    optimizer=OptimizerConfig(lr=1.0, betas=(0.8, 0.9)),
    average=AverageConfig(0.99),
    cache=Path("/x/y"),
)


@pytest.mark.parametrize("config", [FULL, RunConfig(data="d"), RunConfig(data="d", share=2)])
def test_a_config_survives_json(config: RunConfig) -> None:
    again = from_json(RunConfig, json.loads(json.dumps(to_json(config))), "config.json")
    assert again == config
    assert type(again.share) is type(config.share)


def test_integers_become_floats_where_a_float_is_declared() -> None:
    config = from_json(RunConfig, {"data": "d", "optimizer": {"lr": 1}}, "config.json")
    assert type(config.optimizer.lr) is float


def test_unknown_key_names_the_nearest_field() -> None:
    with pytest.raises(ValueError, match="wieght") as caught:
        from_json(RunConfig, {"data": "d", "optimizer": {"wieght_decay": 0.1}}, "config.json")
    assert str(caught.value) == (
        "config.json: optimizer.wieght_decay is not a field of OptimizerConfig. Did you mean weight_decay?"
    )


def test_unknown_key_unlike_any_lists_the_fields() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.qqq is not a field .* Its fields are lr, weight_decay, betas\.$"):
        from_json(RunConfig, {"data": "d", "optimizer": {"qqq": 1}}, "config.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": 3}, r"^config\.json: data: expected a string, got 3; correct it there\.$"),
        ({"epochs": 1.5}, r"config\.json: epochs: expected an integer, got 1\.5"),
        ({"epochs": True}, r"epochs: expected an integer, got true"),
        ({"amp": 1}, r"amp: expected true or false, got 1"),
        ({"optimizer": {"lr": "fast"}}, r'config\.json: optimizer\.lr: expected a number, got "fast"'),
        ({"optimizer": {"lr": True}}, r"optimizer\.lr: expected a number, got true"),
        ({"optimizer": 3}, r"optimizer: expected an object with the fields of OptimizerConfig, got 3"),
        ({"limit": "x"}, r'limit: expected an integer or null, got "x"'),
        ({"share": "x"}, r'share: expected a number or an integer, got "x"'),
        ({"share": None}, r"share: expected a number or an integer, got null"),
        ({"image_size": [224]}, r"image_size: expected a list of 2 \(an integer, an integer\), got \[224\]"),
        ({"image_size": [224, "a"]}, r'image_size\[1\]: expected an integer, got "a"'),
        ({"layers": 3}, r"layers: expected a list \(an integer each\), got 3"),
        ({"layers": [1, 2.5]}, r"layers\[1\]: expected an integer, got 2\.5"),
        ({"schedule": "cosin"}, r'expected one of "cosine", "constant", got "cosin"; .* Did you mean cosine\?'),
        ({"mixture": [1]}, r"mixture: expected an object \(an integer each\), got \[1\]"),
        ({"mixture": {"a": "b"}}, r'mixture\.a: expected an integer, got "b"'),
        ({"average": {}}, r"average\.decay is missing and has no default in AverageConfig; add it: expected a number"),
        ({"average": 1}, r"average: expected an object with the fields of AverageConfig"),
        ({"cache": 1}, r"cache: expected a path, got 1"),
        ({"optimizer": {"lr": -1}}, r"^config\.json: optimizer: lr must be above 0, got -1\.0$"),
    ],
)
def test_wrong_values_are_refused_with_their_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(RunConfig, {"data": "d", **change}, "config.json")


def test_missing_and_shapeless() -> None:
    with pytest.raises(ValueError, match=r"config\.json: data is missing and has no default in RunConfig; .* a string"):
        from_json(RunConfig, {}, "config.json")
    with pytest.raises(ValueError, match=r"config\.json: expected an object with the fields of RunConfig, got \[\]"):
        from_json(RunConfig, [], "config.json")


def test_what_json_cannot_hold_is_not_written() -> None:
    with pytest.raises(ValueError, match=r"RunConfig\.data holds '\(required on the command line\)'"):
        to_json(replace(FULL, data=REQUIRED))


def test_differences_are_dotted_and_ignore_the_kind_of_sequence() -> None:
    old = {"a": 1, "same": (1, 2), "optimizer": {"lr": 1.0, "gone": 2}, "empty": {}}
    new = {"a": 2, "same": [1, 2], "optimizer": {"lr": 0.5, "new": None}, "empty": {}}
    assert differences(old, new) == [
        ("a", 1, 2),
        ("optimizer.lr", 1.0, 0.5),
        ("optimizer.gone", 2, ABSENT),
        ("optimizer.new", ABSENT, None),
    ]
    assert differences(new, new) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("weight-decay", "optimizer.weight-decay"),
        ("weight-deacy", "optimizer.weight-decay"),
        ("optmizer.lr", "optimizer.lr"),
        ("teacher.lr", "teacher.lr"),
        ("zzzzz", None),
    ],
)
def test_closest(name: str, expected: str | None) -> None:
    assert closest(name, ["optimizer.weight-decay", "optimizer.lr", "teacher.lr", "epochs"]) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1', r"config\.json: not valid JSON: Expecting ',' delimiter: line 1"),
        (b"\xff", r"config\.json: not valid JSON: .*utf-8"),
        (b"[]", r"config\.json: expected a JSON object, got list"),
        (b'{"o": {"lr": 1, "lr": 2}}', r"config\.json: lr is given twice in one object"),
    ],
)
def test_unreadable_json(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=message):
        read_json(path)
    path.write_text('{"a": {"b": [1]}}')
    assert read_json(path) == {"a": {"b": [1]}}


def test_fields_at_their_default_are_those_of_the_class_that_holds_them() -> None:
    """A dataclass in a field is at its default where it equals the field's; otherwise each of its own fields counts."""
    everywhere = {"epochs", "image_size", "amp", "schedule"}
    assert fields_at_default(FULL) == {*everywhere, "optimizer.weight_decay"}
    changed = replace(FULL, optimizer=OptimizerConfig(), mixture={}, average=None)
    of_optimizer = {f"optimizer.{name}" for name in ("lr", "weight_decay", "betas")}
    assert fields_at_default(changed) == {*everywhere, *of_optimizer, "mixture", "average"}


def test_a_default_of_the_outer_class_counts_though_it_is_not_the_inner_ones() -> None:
    @dataclass(frozen=True)
    class Outer:
        optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=3.0))

    assert fields_at_default(Outer()) == {"optimizer.lr", "optimizer.weight_decay", "optimizer.betas"}
