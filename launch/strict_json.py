"""Config dataclasses as JSON, and back without forgiving anything: a misspelt key is an error, not a default."""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

Config = TypeVar("Config")

ABSENT = "(absent)"
"""What `differences` gives for a field that one of the two sides lacks."""

_SCALARS = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    types.NoneType: "null",
}


def to_json(config: Any) -> dict[str, Any]:
    """The config as dicts, lists, strings, numbers, booleans and None: `from_json` reads it back equal.

    Raises ValueError where a field holds anything else, such as an option that is still `settings.REQUIRED`.
    """
    assert dataclasses.is_dataclass(config)
    assert not isinstance(config, type)
    return _encode(config, type(config).__name__)


def _encode(value: Any, place: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encode(getattr(value, f.name), f"{place}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_encode(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _encode(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    # Subclasses (a numpy float, the REQUIRED marker) would be written as something other than what they are.
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise ValueError(
        f"{place} holds {value!r} ({type(value).__name__}), which cannot be written as JSON; "
        "expected a string, number, boolean, None, tuple, dict or dataclass"
    )


def from_json(config_type: type[Config], mapping: object, where: str) -> Config:
    """Builds `config_type`, a dataclass, from what `json.loads` gave. `where` (a file's name) begins every message.

    Fields may be str, int, float (which takes integers), bool, None, unions, Literal, tuples, Path, dicts with string
    keys and nested dataclasses. Raises ValueError for an unknown key, for a missing key without a default, for a wrong
    type and for what a `__post_init__` refuses.
    """
    return _decode_dataclass(config_type, mapping, where, "")


def _decode_dataclass(config_type: Any, value: object, where: str, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(config_type, value, where, path)
    fields = {field.name: field for field in dataclasses.fields(config_type) if field.init}
    for key in value:
        if key not in fields:
            near = closest(str(key), fields)
            hint = f"Did you mean {near}?" if near else f"Its fields are {', '.join(fields)}."
            raise ValueError(f"{where}: {_join(path, key)} is not a field of {config_type.__name__}. {hint}")
    hints = typing.get_type_hints(config_type)
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = _decode(hints[name], value[name], where, _join(path, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(
                f"{where}: {_join(path, name)} is missing and has no default in {config_type.__name__}; "
                f"add it: expected {_describe(hints[name])}"
            )
    try:
        return config_type(**arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {path}: {error}" if path else f"{where}: {error}") from error


def _decode(hint: Any, value: Any, where: str, path: str) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(hint, value, where, path)
    if origin in (Union, types.UnionType):
        return _decode_union(hint, parts, value, where, path)
    if origin is Literal:
        return _decode_literal(hint, parts, value, where, path)
    if origin is tuple:
        return _decode_tuple(hint, parts, value, where, path)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(hint, value, where, path)
        return {key: _decode(parts[1], item, where, _join(path, key)) for key, item in value.items()}
    return _decode_scalar(hint, value, where, path)


def _decode_scalar(hint: Any, value: Any, where: str, path: str) -> Any:
    assert hint in _SCALARS, f"{where}: {path} is declared as {hint}: unsupported"
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint is Path and type(value) is str:
        return Path(value)
    # `type is`, since True is an int to isinstance.
    if type(value) is not hint:
        raise _wrong(hint, value, where, path)
    return value


def _decode_tuple(hint: Any, parts: tuple[Any, ...], value: Any, where: str, path: str) -> tuple[Any, ...]:
    if isinstance(value, list) and len(parts) == 2 and parts[1] is Ellipsis:
        parts = (parts[0],) * len(value)
    if not isinstance(value, list) or len(value) != len(parts):
        raise _wrong(hint, value, where, path)
    pairs = zip(parts, value, strict=True)
    return tuple(_decode(part, item, where, f"{path}[{index}]") for index, (part, item) in enumerate(pairs))


def _decode_union(hint: Any, parts: tuple[Any, ...], value: Any, where: str, path: str) -> Any:
    if value is None and types.NoneType in parts:
        return None
    candidates = [part for part in parts if part is not types.NoneType]
    # With one type besides None its own message, which names the inner field, is better than one about the union.
    if len(candidates) == 1 and not (value is None or candidates[0] in _SCALARS):
        return _decode(candidates[0], value, where, path)
    # An integer written for `float | int` stays an integer.
    for part in sorted(candidates, key=lambda part: part is not type(value)):
        try:
            return _decode(part, value, where, path)
        except ValueError:
            continue
    raise _wrong(hint, value, where, path)


def _decode_literal(hint: Any, choices: tuple[Any, ...], value: Any, where: str, path: str) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return value
    near = closest(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else None
    raise _wrong(hint, value, where, path, f" Did you mean {near}?" if near else "")


def _wrong(hint: Any, value: object, where: str, path: str, advice: str = "") -> ValueError:
    place = f"{where}: {path}" if path else where
    return ValueError(
        f"{place}: expected {_describe(hint)}, got {json.dumps(value, default=repr)}; correct it there.{advice}"
    )


def _describe(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(part) for part in parts)
    if origin is Literal:
        return "one of " + ", ".join(json.dumps(choice) for choice in parts)
    if origin is tuple:
        each = [_describe(part) for part in parts if part is not Ellipsis]
        return f"a list ({each[0]} each)" if Ellipsis in parts else f"a list of {len(parts)} ({', '.join(each)})"
    if origin in (dict, Mapping):
        return f"an object ({_describe(parts[1])} each)"
    if dataclasses.is_dataclass(hint):
        return f"an object with the fields of {getattr(hint, '__name__', hint)}"
    return _SCALARS[hint]


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def closest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `name` was probably meant to be, or None.

    Names may be dotted: `weight-decay` and `weight-deacy` both find `optimizer.weight-decay`.
    """
    names = list(candidates)
    tail = name.rpartition(".")[2]
    same_tail = [candidate for candidate in names if candidate.rpartition(".")[2] == tail]
    if same_tail:
        return difflib.get_close_matches(name, same_tail, n=1, cutoff=0.0)[0]
    near = difflib.get_close_matches(name, names, n=1)
    if not near:
        by_tail = {candidate.rpartition(".")[2]: candidate for candidate in names}
        near = [by_tail[match] for match in difflib.get_close_matches(tail, by_tail, n=1)]
    return near[0] if near else None


def fields_at_default(config: Any, path: str = "") -> frozenset[str]:
    """The dotted fields of a config dataclass, and of those in it, that have their default value."""
    found: set[str] = set()
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), _join(path, field.name)
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        if default is not dataclasses.MISSING and default == value:
            found |= _flatten({name: to_json(value) if dataclasses.is_dataclass(value) else value}).keys()
        elif dataclasses.is_dataclass(value):
            found |= fields_at_default(value, name)
    return frozenset(found)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted field, old value, new value) wherever two configs, as `to_json` gives them, differ; `ABSENT` for none."""
    before, after = _flatten(old), _flatten(new)
    return [
        (name, before.get(name, ABSENT), after.get(name, ABSENT))
        for name in {**before, **after}
        if before.get(name, ABSENT) != after.get(name, ABSENT)
    ]


def _flatten(mapping: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, _join(path, key))
        else:
            flat[_join(path, key)] = list(value) if isinstance(value, tuple) else value
    return flat


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises FileNotFoundError, or ValueError for anything but one object in UTF-8."""
    try:
        value = json.loads(path.read_bytes(), object_pairs_hook=lambda pairs: _without_duplicates(pairs, path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}; correct it there or restore the file") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}; correct it there")  # noqa: TRY004
    return value


def _without_duplicates(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{path}: {twice} is given twice in one object; expected once: remove one of them")
    return mapping
