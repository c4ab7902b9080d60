"""The shards of a split, kept by column: a manifest of 100,000 shards is read, checked and sent to workers as a few
lists, and what describes one shard is put together when that shard is looked at.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Shard:
    """One tar: file names relative to the dataset folder, sizes in bytes, SHA-256 in hex.

    `first`: the number from which its keys count, -1 in tars of others.
    """

    file: str
    samples: int
    bytes: int
    sha256: str
    index: str
    index_sha256: str
    first: int = -1

    @property
    def names(self) -> str:
        """The file that lists its samples' names in the source, one a line."""
        return f"{self.index.removesuffix('.npy')}.txt"


_FIELDS = tuple(field.name for field in fields(Shard))
_ROW = "{" + ", ".join(f'"{name}": %s' for name in sorted(_FIELDS)) + "}"
_AT_ONCE = 512  # shards: their text stays in the processor's cache, and in the heap


class ShardTable(Sequence[Shard]):
    """Shards in order; equal to any other sequence of the same."""

    def __init__(self, columns: Sequence[Sequence[Any]]) -> None:
        self._columns = tuple(columns)

    @classmethod
    def of(cls, shards: Iterable[Shard]) -> "ShardTable":
        """The table of these shards, itself if they are one already."""
        if isinstance(shards, ShardTable):
            return shards
        rows = [astuple(shard) for shard in shards]
        return cls([[row[number] for row in rows] for number in range(len(_FIELDS))])

    @classmethod
    def from_json(cls, shards: Sequence[Mapping[str, Any]]) -> "ShardTable":
        """The table of shards as a manifest lists them.

        Raises:
            LookupError, TypeError, AttributeError: something else than objects with the fields of a `Shard`.
        """
        if _are_shards(shards):
            return cls([[shard[name] for shard in shards] for name in _FIELDS])
        return cls.of([Shard(**shard) for shard in shards])

    def to_json(self) -> list[dict[str, Any]]:
        """As a manifest lists them."""
        return [dict(zip(_FIELDS, row, strict=True)) for row in zip(*self._columns, strict=True)]

    @overload
    def __getitem__(self, number: int) -> Shard: ...

    @overload
    def __getitem__(self, number: slice) -> tuple[Shard, ...]: ...

    def __getitem__(self, number: int | slice) -> Shard | tuple[Shard, ...]:
        if isinstance(number, slice):
            return tuple(self[one] for one in range(len(self))[number])
        return Shard(*(column[number] for column in self._columns))

    def __len__(self) -> int:
        return len(self._columns[0])

    def __iter__(self) -> Iterator[Shard]:
        return map(Shard, *self._columns)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ShardTable):
            return self._columns == other._columns
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def column(self, name: str) -> Sequence[Any]:
        """One field of all shards."""
        return self._columns[_FIELDS.index(name)]

    @cached_property
    def samples(self) -> NDArray[np.int64]:
        """Of each shard: shape (shards,)."""
        return np.asarray(self.column("samples"), np.int64)

    @cached_property
    def bytes(self) -> NDArray[np.int64]:
        """Of each shard's tar: shape (shards,)."""
        return np.asarray(self.column("bytes"), np.int64)


def sorted_text(value: Any) -> Iterator[str]:
    """`json.dumps(value, sort_keys=True)` in pieces; of many shards in a quarter of the time, without holding it all.

    `value`: of JSON's own types, such as a manifest.
    """
    if isinstance(value, dict):
        mark = "{"
        for name in sorted(value):
            yield f"{mark}{json.dumps(name)}: "
            yield from sorted_text(value[name])
            mark = ", "
        yield "}" if value else "{}"
    elif isinstance(value, list) and _are_shards(value):
        mark = "["
        for start in range(0, len(value), _AT_ONCE):
            yield f"{mark}{_shards_text(value[start : start + _AT_ONCE])}"
            mark = ", "
        yield "]"
    else:
        yield json.dumps(value, sort_keys=True)


def _shards_text(shards: list[dict[str, Any]]) -> str:
    columns = []
    for name in sorted(_FIELDS):
        # No value's JSON has a line break in it, so those between values tell where each of them ends.
        text = json.dumps([shard[name] for shard in shards], sort_keys=True, separators=("\n", ": "))
        columns.append(text[1:-1].split("\n"))
    if any(len(column) != len(shards) for column in columns):  # a value that is itself a list or an object
        return json.dumps(shards, sort_keys=True)[1:-1]
    return ", ".join(map(_ROW.__mod__, zip(*columns, strict=True)))


def _are_shards(values: Sequence[Any]) -> bool:
    return set(map(type, values)) == {dict} and all(set(names) == set(_FIELDS) for names in set(map(tuple, values)))
